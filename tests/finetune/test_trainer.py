"""The training itself: going on is going on, parts make a whole, and several processes learn what one does."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.finetune.tables import table_of
from vision_server.dataset.examples import Example
from vision_server.engine.config import read_config
from vision_server.engine.preprocess import PromptTokenizer
from vision_server.errors import BadSetting, VisionError
from vision_server.finetune import state
from vision_server.finetune.batches import Maker, Order
from vision_server.finetune.checking import check
from vision_server.finetune.history import PLOT_FILE
from vision_server.finetune.options import Lora, Options
from vision_server.finetune.teacher import Teacher, all_weights, build, with_lora
from vision_server.finetune.trainer import Stopped, Trainer, accelerator_for, plan, rate_at, seed

SHORT = Options(
    max_steps=6, batch=4, rate=3e-3, warmup=2, dropout=0.1, save_every=3, validate_every=100, lora=Lora(4, 8, 0.1)
)


def examples_of(base: Path, lessons: Path) -> list[Example]:
    return check([lessons], "", read_config(base), PromptTokenizer(base), 2, quiet=True).examples


def trainer(base: Path, lessons: Path, folder: Path, options: Options = SHORT) -> Trainer:
    folder.mkdir(exist_ok=True)
    config = read_config(base)
    accelerator = accelerator_for(options, cpu=True)
    torch.manual_seed(options.seed)
    model = build(base, config, options.dropout)
    if options.lora is None:
        all_weights(model, frozen_vision=False)
    learning = model if options.lora is None else with_lora(model, options.lora, options.frozen_vision, "tiny")
    examples = examples_of(base, lessons)
    seed(options, accelerator)
    maker = Maker(PromptTokenizer(base), config.preprocess)
    return Trainer(Teacher(learning), maker, examples, plan(options, len(examples), 1), accelerator, folder)


def losses(run: Trainer) -> list[float]:
    return [row["loss"] for row in run.history.rows]


def interrupting() -> dict[str, float]:
    """A validation in which the person at the keyboard has had enough."""
    os.kill(os.getpid(), signal.SIGINT)
    return {"validation_loss": 1.0}


@pytest.mark.parametrize("lora", [SHORT.lora, None], ids=["LoRA", "all weights"])
def test_a_run_that_goes_on_has_the_same_losses(base: Path, lessons: Path, tmp_path: Path, lora: Lora | None) -> None:
    """To the last bit, dropout and all: it is the same run."""
    options = replace(SHORT, lora=lora, validate_every=3)
    whole = trainer(base, lessons, tmp_path / "whole", options)
    whole.run(lambda: {"validation_loss": 1.0})
    with pytest.raises(Stopped):
        trainer(base, lessons, tmp_path / "parts", options).run(interrupting)
    torch.rand(7)  # what another process would have drawn
    again = trainer(base, lessons, tmp_path / "parts", options)
    again.resume()
    assert (again.step, again.best, again.unimproved) == (3, -1.0, 0)
    again.run(lambda: {"validation_loss": 1.0})
    assert again.history.rows == whole.history.rows
    assert [row["step"] for row in again.history.rows] == [1, 2, 3, 4, 5, 6]
    ours, theirs = (dict(run._bare.named_parameters()) for run in (again, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_dropout_is_what_going_on_must_remember(base: Path, lessons: Path, tmp_path: Path) -> None:
    """The test above would see generators of chance that were not put back."""
    runs = [trainer(base, lessons, tmp_path / name, replace(SHORT, max_steps=2)) for name in ("a", "b")]
    torch.manual_seed(1)
    runs[0].run(None)
    torch.manual_seed(2)
    runs[1].run(None)
    assert losses(runs[0])[0] != losses(runs[1])[0]


def test_another_run_is_not_gone_on_with(base: Path, lessons: Path, tmp_path: Path) -> None:
    trainer(base, lessons, tmp_path, replace(SHORT, max_steps=1)).run(None)
    with pytest.raises(BadSetting, match=r"other options \(rate"):
        trainer(base, lessons, tmp_path, replace(SHORT, rate=1e-5)).resume()
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text(
        "".join(
            json.dumps({**json.loads(line), "image": str(lessons.parent / json.loads(line)["image"])}) + "\n"
            for line in lessons.read_text().splitlines()[1:]
        )
    )
    with pytest.raises(BadSetting, match="data is not"):
        trainer(base, fewer, tmp_path).resume()
    with pytest.raises(BadSetting, match=r"holds no state\.pt"):
        trainer(base, lessons, tmp_path / "new").resume()
    (tmp_path / state.STATE_FILE).write_bytes(b"PK\x03\x04 not a state")
    with pytest.raises(BadSetting, match="damaged"):
        trainer(base, lessons, tmp_path).resume()


def test_parts_of_a_step_are_the_step(base: Path, lessons: Path, tmp_path: Path) -> None:
    """The mean is over labels, of which the parts have different numbers."""
    plain = replace(SHORT, dropout=0.0, lora=Lora(4, 8, 0.0), max_steps=4)
    whole = trainer(base, lessons, tmp_path / "whole", plain)
    whole.run(None)
    parts = trainer(base, lessons, tmp_path / "parts", replace(plain, batch=2, accumulate=2))
    parts.run(None)
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-5)


def test_recomputing_gives_the_same_losses(base: Path, lessons: Path, tmp_path: Path) -> None:
    whole = trainer(base, lessons, tmp_path / "whole", replace(SHORT, max_steps=3))
    whole.run(None)
    again = trainer(base, lessons, tmp_path / "again", replace(SHORT, max_steps=3, recompute=True))
    again.run(None)
    assert losses(again) == pytest.approx(losses(whole), abs=1e-5)


def test_it_learns_and_writes_down_how(base: Path, lessons: Path, tmp_path: Path) -> None:
    run = trainer(base, lessons, tmp_path, replace(SHORT, max_steps=30, dropout=0.0, lora=Lora(8, 16, 0.0)))
    before = run.loss_of(examples_of(base, lessons))
    seen = iter([2.0, 1.0, 3.0])
    run.options = replace(run.options, validate_every=10)
    run.run(lambda: {"validation_loss": next(seen), "exact": 0.5, "iou": 0.25, "similarity": 0.75})
    assert run.loss_of(examples_of(base, lessons)) < 0.8 * before
    rows = table_of(tmp_path)
    assert [int(row["step"]) for row in rows] == list(range(1, 31))
    assert [float(row["loss"]) for row in rows] == losses(run)
    assert [row["validation_loss"] for row in rows if row["validation_loss"]] == ["2.0", "1.0", "3.0"]
    assert (run.best, run.unimproved) == (-1.0, 1)
    with Image.open(tmp_path / PLOT_FILE) as curves:
        assert curves.format == "PNG"
        assert len(curves.convert("RGB").getcolors(1 << 24) or []) > 20


def test_it_ends_when_validations_stop_getting_better(base: Path, lessons: Path, tmp_path: Path) -> None:
    options = replace(SHORT, max_steps=30, validate_every=2, patience=2, best_by="exact")
    run = trainer(base, lessons, tmp_path, options)
    seen = iter([0.1, 0.3, 0.3, 0.2, 0.9])
    run.run(lambda: {"validation_loss": 1.0, "exact": next(seen)})
    assert run.step == 8
    assert run.best == 0.3


def test_a_loss_that_is_no_number_ends_it_and_is_not_saved(base: Path, lessons: Path, tmp_path: Path) -> None:
    run = trainer(base, lessons, tmp_path, replace(SHORT, rate=1e30, save_every=1))
    with pytest.raises(VisionError, match=r"At step \d the loss is (nan|inf)"):
        run.run(None)
    saved = state.read(tmp_path)
    assert saved["step"] == run.step - 1
    assert all(math.isfinite(row["loss"]) for row in saved["history"])


def test_bfloat16_learns_too(base: Path, lessons: Path, tmp_path: Path) -> None:
    run = trainer(base, lessons, tmp_path, replace(SHORT, precision="bf16", max_steps=2))
    run.run(None)
    assert all(math.isfinite(loss) for loss in losses(run))
    assert {one.dtype for one in run._bare.parameters()} == {torch.float32}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU trains in float16")
def test_float16_asks_for_a_gpu() -> None:
    with pytest.raises(BadSetting, match="needs a CUDA device"):
        accelerator_for(replace(SHORT, precision="fp16"))


def test_the_rate_rises_and_falls_as_a_cosine() -> None:
    options = replace(SHORT, max_steps=12, warmup=2, rate=1.0, last_rate=0.1)
    rates = [rate_at(step, options) for step in range(13)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[7] == pytest.approx(0.55)
    assert rates[12] == pytest.approx(0.1)
    assert sorted(rates[2:], reverse=True) == rates[2:]


def test_what_is_not_said_is_as_the_data_has_it() -> None:
    planned = plan(Options(epochs=3, batch=8, accumulate=2), examples=100, devices=2)
    assert (planned.max_steps, planned.validate_every, planned.save_every, planned.warmup) == (10, 4, 4, 1)
    assert planned.rate == 1e-4
    assert plan(Options(lora=None, max_steps=7), 100, 1).rate == 1e-5
    assert plan(Options(max_steps=7), 100, 1).max_steps == 7


def test_every_pass_has_all_and_keeps_a_picture_together(base: Path, lessons: Path) -> None:
    examples = examples_of(base, lessons)
    order = Order(examples, seed=0)
    passes = [order.places(first, len(examples)) for first in (0, len(examples), 2 * len(examples))]
    assert passes[0] != passes[1] != passes[2]
    for one in passes:
        assert sorted(one) == list(range(len(examples)))
        pictures = [examples[place].picture for place in one]
        assert sum(a != b for a, b in itertools.pairwise(pictures)) == len(set(pictures)) - 1
    assert order.places(3, 7) == [*passes[0], *passes[1]][3:10]
    assert Order(examples, seed=1).places(0, len(examples)) != passes[0]
