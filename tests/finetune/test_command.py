"""`vision-server finetune` as a person calls it: checks, runs, several processes, and what comes out is served."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import Florence2ForConditionalGeneration

from tests.finetune.tables import table_of
from tests.layouts import to_published, to_resaved
from vision_server import cli
from vision_server.engine import Florence

ROOT = Path(__file__).parents[2]
ASKED = "What does the image describe?"
QUICK = ["--cpu", "--max-steps", "2", "--batch", "4", "--rate", "0.01", "--workers", "1", "--validation-answers", "2"]


def finetune(*words: object) -> int:
    return cli.main(["finetune", *map(str, words)])


def said(florence: Florence, lessons: Path) -> str:
    with Image.open(lessons.parent / "1.png") as picture:
        return florence.generate([(picture.convert("RGB"), ASKED)], max_new_tokens=20)[0].text


def test_check_says_what_there_is_and_trains_nothing(
    base: Path, lessons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(lessons, "--model", base, "--check", "--cpu") == 0
    assert "18 rows, 18 of them good, about 12 pictures." in capsys.readouterr().out
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"image": str(lessons.parent / "1.png"), "prompt": "CAPTION", "answer": ""}))
    assert finetune(lessons, bad, "--model", base, "--check", "--cpu") == 1
    assert "empty answer: 1\n  bad.jsonl line 1: The answer is empty." in capsys.readouterr().out


def test_faulty_data_is_learned_from_only_when_that_is_said(
    base: Path, lessons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    out = tmp_path / "run"
    assert finetune(lessons, bad, "--model", base, "--out", out, *QUICK) == 1
    shown = capsys.readouterr()
    assert "not a row: 1" in shown.out
    assert "--skip-faulty" in shown.err
    assert not out.exists()
    assert finetune(lessons, bad, "--model", base, "--out", out, "--skip-faulty", *QUICK) == 0
    modes = [(out / "adapter" / name).stat().st_mode for name in ("adapter_model.safetensors", "adapter_config.json")]
    assert modes[0] == modes[1], "whoever may read the folder may read the weights"


@pytest.mark.parametrize("layout", ["native", "published", "re-saved"])
def test_an_adapter_for_every_layout_is_served(base: Path, lessons: Path, tmp_path: Path, layout: str) -> None:
    """What the daemon would say with the adapter is what transformers says with it merged by PEFT."""
    directory = Path(shutil.copytree(base, tmp_path / "other"))
    change: dict[str, Callable[[Path], object]] = {"published": to_published, "re-saved": to_resaved}
    if layout in change:
        change[layout](directory)
    out = tmp_path / "run"
    assert (
        finetune(lessons, "--model", directory, "--out", out, "--modules", "attention", "fc1", "convolutions", *QUICK)
        == 0
    )
    plain, taught = (Florence.load(directory, "cpu", "float32", adapter=one) for one in (None, out / "adapter"))
    native = Florence.load(base, "cpu", "float32", adapter=out / "adapter")
    assert said(taught, lessons) == said(native, lessons) != said(plain, lessons)


@pytest.mark.parametrize("layout", ["native", "re-saved"])
def test_all_weights_become_a_checkpoint_like_the_one_that_was_taught(
    base: Path, lessons: Path, tmp_path: Path, layout: str
) -> None:
    directory = Path(shutil.copytree(base, tmp_path / "other"))
    if layout == "re-saved":
        to_resaved(directory)
    out = tmp_path / "run"
    assert finetune(lessons, "--model", directory, "--out", out, "--full", *QUICK) == 0
    before, after = load_file(directory / "model.safetensors"), load_file(out / "model" / "model.safetensors")
    assert {key for key in before if "embed_tokens" not in key and "bias_logits" not in key} >= set(after) - {""}
    changed = [key for key, tensor in after.items() if not torch.equal(tensor, before[key])]
    assert len(changed) > 0.9 * len(after)
    taught = Florence.load(out / "model", "cpu", "float32")
    assert said(taught, lessons) != said(Florence.load(directory, "cpu", "float32"), lessons)
    if layout == "native":
        Florence2ForConditionalGeneration.from_pretrained(out / "model")


def test_a_run_is_watched_kept_and_gone_on_with(
    base: Path, lessons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = [lessons, "--model", base, "--out", out, *QUICK, "--validation-share", 0.2, "--validate-every", 1]
    assert finetune(*words) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out / 'adapter'}\n"
    assert "step 1, validation: loss" in shown.err
    rows = table_of(out)
    assert all(row["validation_loss"] and row["exact"] for row in rows)
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [set(one) for one in answers] == [{"where", "sentence", "true", "said"}] * 2
    described = json.loads((out / "run.json").read_text())
    assert described["options"]["max_steps"] == 2
    assert not (out / "candidate").exists() or not list((out / "candidate").glob("*.part"))
    assert finetune(*words) == 2  # a run is not written over
    assert "holds a run" in capsys.readouterr().err
    longer = [*words, "--resume"]
    longer[longer.index("--max-steps") + 1] = "3"
    assert finetune(*longer) == 0
    assert len(table_of(out)) == 3


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["--batch", "0"], "--batch 0: it is from 1"),
        (["--validation-share", "2"], "--validation-share 2: it is from 0 to 1"),
        (["--modules", "nonsense"], "no such module"),
        (["--patience", "2", "--validation-share", "0"], "--patience needs a validation"),
        (["--resume"], "no run to go on with"),
    ],
)
def test_words_that_mean_nothing_are_refused(
    base: Path, lessons: Path, tmp_path: Path, words: list[str], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(lessons, "--model", base, "--out", tmp_path / "run", *QUICK, *words) == 2
    assert wrong in capsys.readouterr().err


def test_a_folder_to_write_into_is_asked_for(base: Path, lessons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune(lessons, "--model", base, *QUICK) == 2
    assert "--out" in capsys.readouterr().err
    assert finetune(lessons / "nowhere", "--model", base, "--check", "--cpu") == 1
    assert "no file or folder" in capsys.readouterr().err


@pytest.mark.timeout(280)
def test_two_processes_learn_what_one_learns_from_twice_as_many_rows(base: Path, lessons: Path, tmp_path: Path) -> None:
    """Started by torchrun, with gradients carried between them; the same rows, so the same losses."""
    words = ["--model", base, "--cpu", "--max-steps", 3, "--rate", 0.01, "--workers", 1, "--validation-share", 0.2]
    words += ["--validation-answers", 1, "--validate-every", 3, "--dropout", 0, "--lora-dropout", 0]
    one, two = tmp_path / "one", tmp_path / "two"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "vision_server",
    ]
    command += map(str, ["finetune", lessons, "--out", two, "--batch", 2, *words])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=270)
    assert process.returncode == 0, process.stderr
    assert process.stdout == f"{two / 'adapter'}\n"
    assert finetune(lessons, "--out", one, "--batch", 4, *words) == 0
    for name in ("loss", "validation_loss"):
        ours, theirs = ([float(row[name]) for row in table_of(run) if row[name]] for run in (one, two))
        assert len(ours) == (3 if name == "loss" else 1)
        assert theirs == pytest.approx(ours, abs=1e-4)
