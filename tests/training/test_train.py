"""A few steps of the real trainer: it learns, stops, resumes, and what it writes is a checkpoint that loads."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from vision_server.engine import Florence
from vision_server.training.batches import LONG, SHORT
from vision_server.training.drawing import draw
from vision_server.training.questions import PROMPTS
from vision_server.training.scenes import EVAL_SEEDS, scene
from vision_server.training.train import Trainer


def arguments(run: Path, steps: int, cells_only: int = 0, start: Path | None = None) -> argparse.Namespace:
    return argparse.Namespace(
        run=run,
        start=start,
        steps=steps,
        decay=2,
        cells_only=cells_only,
        warmup=1,
        pictures=2,
        prompts=4,
        lr=1e-3,
        seed=0,
        device="cpu",
        float32=False,
        log_every=100,
        save_every=100,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped at step 2 and resumed to step 4."""
    folder = tmp_path_factory.mktemp("run")
    Trainer(arguments(folder, steps=2, cells_only=1)).run()
    resumed = Trainer(arguments(folder, steps=4))
    assert resumed.step == 2
    resumed.run()
    assert resumed.step == 4
    return folder


def test_every_prompt_is_learned() -> None:
    assert {*SHORT, *LONG} == set(PROMPTS)
    assert not set(SHORT) & set(LONG)


def test_a_resumed_run_continues_with_weights_and_optimizer(run: Path) -> None:
    state = torch.load(run / "last.pt", weights_only=True)
    again = Trainer(arguments(run, steps=4))
    assert again.step == 4
    for name, tensor in again.network.state_dict().items():
        assert torch.equal(tensor, state["network"][name]), name
    steps = {int(one["step"]) for one in again.optimizer.state_dict()["state"].values()}
    assert steps == {3, 4}, "the parts that learn from the answers began one step later"


def test_a_new_run_may_start_from_a_model(run: Path, tmp_path: Path) -> None:
    begun = Trainer(arguments(tmp_path, steps=1, start=run / "model"))
    stored = load_file(run / "model" / "model.safetensors")
    assert begun.step == 0
    assert torch.equal(begun.network.text.shared.weight, stored["model.language_model.shared.weight"].float())
    assert begun.network.text.lm_head.weight is begun.network.text.shared.weight, "still tied"


def test_the_loss_falls_on_one_batch(tmp_path: Path) -> None:
    trainer = Trainer(arguments(tmp_path, steps=1000))
    batch = next(trainer.batches())
    first = trainer.learn(batch)
    for _ in range(14):
        last = trainer.learn(batch)
    assert last["words"] < 0.8 * first["words"]
    assert last["kind"] < 0.8 * first["kind"]


def test_what_it_writes_loads_here_and_in_transformers(run: Path) -> None:
    florence = Florence.load(run / "model", device="cpu", dtype="float32")
    picture = draw(scene(EVAL_SEEDS[0]))
    said = florence.generate([(picture, "What does the image describe?")], max_new_tokens=10)[0]
    assert len(said.token_ids) <= 10
    oracle = Florence2ForConditionalGeneration.from_pretrained(run / "model", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(run / "model")
    inputs = processor(images=picture, text="<CAPTION>", return_tensors="pt")
    assert inputs["input_ids"].shape[1] == florence.image_tokens + said.prompt_tokens
    ids = oracle.generate(**inputs, num_beams=3, max_new_tokens=10, no_repeat_ngram_size=3, early_stopping=True)
    assert ids[0, 1 : 1 + len(said.token_ids)].tolist() == said.token_ids
