"""The comparison on a model of a few thousand parameters: its rows, and that what it times is really done."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bench import compare, pairs
from tests.bench.checkpoints import TINY, published, questions, write_checkpoint
from tests.bench.compare import chosen, cpu_measurements, gpu_measurements, measure_all
from tests.bench.contenders import Run, check_identical
from tests.bench.pairs import FLOAT32, Bench, Turn
from vision_server.engine import Florence
from vision_server.engine.config import read_config
from vision_server.engine.network import Network

TOKENS = 12


@pytest.fixture(autouse=True)
def without_litserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row against LitServe starts servers, and is tested in test_litserve_row.py."""
    monkeypatch.setattr(compare, "installed", lambda: False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    write_checkpoint(directory, TINY)
    return directory


@pytest.fixture(scope="module")
def bench(checkpoint: Path) -> Bench:
    return Bench(checkpoint, TINY, TOKENS, pairs=2)


def test_both_make_every_token_and_the_same_ones(bench: Bench) -> None:
    turns = bench.captions(3, 1, [FLOAT32])
    assert len(turns) == 2
    answers = []
    for [ours], reference in turns:
        assert ours.ids == reference.ids
        assert [len(ids) for ids in ours.ids] == [TOKENS] * 3
        assert reference.step_tokens == 3 * (TOKENS - 1)
        assert ours.step_tokens == 3 * (TOKENS - 1) - 3, "let in one a step: two had tokens before the third's first"
        for run in (ours, reference):
            assert 0 < run.steps_s < run.seconds
        answers += ours.ids
    assert len({tuple(ids) for ids in answers}) == 6, "what is said must depend on the picture, and no two are alike"
    assert all(len(set(ids)) > 3 for ids in answers)


def test_a_second_prompt_is_answered_as_ever_without_looking_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looked = Network.look, []

    def noted(network: Network, pixels: torch.Tensor) -> torch.Tensor:
        looked.append(len(pixels))
        return look(network, pixels)

    monkeypatch.setattr(Network, "look", noted)
    turns = bench.second_prompts(usual_pairs=1)
    assert looked == [1, 1], "each picture once, for the prompt before"
    for [ours], reference in turns:
        assert ours.ids == reference.ids
        assert [len(ids) for ids in ours.ids] == [TOKENS]
    bench.captions(1, 1, [FLOAT32])
    assert looked == [1] * 5, "everywhere else the features are not kept"
    assert bench.ours.florence.feature_bytes == 0


def test_another_answer_than_the_references_is_an_error(bench: Bench) -> None:
    asked = questions(TINY, 1000, 1)
    said, expected = bench.ours.run(asked, TOKENS), bench.reference.run(asked, TOKENS)
    check_identical(bench.ours, bench.reference, asked, TOKENS, said.ids, expected.ids)
    wrong = [[*said.ids[0][:-2], 5, 2]]
    with pytest.raises(AssertionError, match="differs"):
        check_identical(bench.ours, bench.reference, asked, TOKENS, wrong, expected.ids)


def test_an_answer_that_ends_early_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Florence.step

    def ends_early(florence: Florence) -> Any:
        return [(ticket, replace(answer, token_ids=answer.token_ids[:-1])) for ticket, answer in step(florence)]

    monkeypatch.setattr(Florence, "step", ends_early)
    with pytest.raises(AssertionError, match="tokens were asked for"):
        bench.ours.run(questions(TINY, 2000, 1), TOKENS)


def test_a_row_for_every_name(bench: Bench) -> None:
    measurements = chosen(cpu_measurements("base", TOKENS), [])
    rows = measure_all(bench, measurements, [])
    names = [name for measurement in measurements for name in measurement.names]
    assert [row.name for row in rows] == names
    assert names == [
        f"CPU fp32, one caption, base, {TOKENS} tokens",
        "CPU int8, one caption",
        "CPU fp32, 8 queued captions, base, captions per second",
        "CPU fp32, decoder alone, 8 requests x 3 beams, ms per token and request",
        "CPU int8, 8 queued",
        f"second prompt on the same picture, base, {TOKENS} tokens",
    ]
    assert [row.unit for row in rows] == ["s", "s", "captions/s", "ms", "captions/s", "s"]
    assert all(row.ours > 0 and row.reference > 0 for row in rows)


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ([], {1: ["float32", "int8"], 8: ["float32", "int8"]}),
        (["CPU int8, 8 queued"], {8: ["int8"]}),
        (["CPU fp32"], {1: ["float32"], 8: ["float32"]}),
    ],
)
def test_a_row_is_of_its_own_dtype_and_no_other_is_run_for_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, only: list[str], expected: dict[int, list[str]]
) -> None:
    asked = {}

    def captions(at_once: int, usual_pairs: int, dtypes: list[str]) -> list[Turn]:
        asked[at_once] = dtypes
        seconds = {"float32": 2.0, "int8": 1.0}
        ours = [Run(seconds[dtype], seconds[dtype], 1, [[]] * at_once) for dtype in dtypes]
        return [(ours, Run(4.0, 4.0, 1, [[]] * at_once))]

    monkeypatch.setattr(bench, "captions", captions)
    measurements = [m for m in cpu_measurements("base", TOKENS) if not m.names[0].startswith("second")]
    rows = measure_all(bench, chosen(measurements, only), only)
    assert asked == expected
    assert {row.name[:8]: row.ratio for row in rows}.items() <= {"CPU fp32": 2.0, "CPU int8": 4.0}.items()


def test_each_dtype_is_a_model_of_its_own(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TINY's layers are too narrow for 8 bits, so bfloat16 shows it."""
    bench = Bench(checkpoint, TINY, TOKENS, pairs=1)
    [[(one, other), _]] = bench.captions(1, 1, [FLOAT32, "bfloat16"])
    assert one.ids
    assert other.ids
    assert [bench.ours_in(dtype).florence.dtype for dtype in (FLOAT32, "bfloat16")] == [FLOAT32, "bfloat16"]
    assert bench.ours is bench.ours_in(FLOAT32)


def test_only_the_rows_asked_for(bench: Bench) -> None:
    measurements = chosen(cpu_measurements("base", TOKENS), ["CPU fp32, decoder"])
    assert len(measurements) == 1
    assert [row.name[:17] for row in measure_all(bench, measurements, ["CPU fp32, decoder"])] == ["CPU fp32, decoder"]
    assert not chosen(gpu_measurements("large", TOKENS), ["CPU"])
    assert len({name for size in ("base", "large") for m in cpu_measurements(size, 60) for name in m.names}) == 12


def test_the_gpus_rows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, since what is measured is the same code."""
    monkeypatch.setattr(pairs, "_COPIED_BYTES", 1 << 16)
    limit_ms = 3 * bench.least_step_ms()
    assert limit_ms > 0
    monkeypatch.setattr(bench, "least_step_ms", lambda: limit_ms / 3)
    one, queued = gpu_measurements("large", TOKENS)
    rows = measure_all(bench, [one], [])
    assert [(row.name, row.unit) for row in rows] == [
        (f"GPU fp16, one caption, large, {TOKENS} tokens", "s"),
        ("GPU fp16, decoder step of one caption, large, against 3 x reading its weights", "ms"),
    ]
    assert rows[1].reference == pytest.approx(limit_ms)
    assert 1000 * rows[0].ours > rows[1].ours * (TOKENS - 1), "steps are a part of the caption"
    assert queued.names == ("GPU fp16, 64 queued captions, large",)


def test_the_script_writes_rows_and_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "published", lambda name: TINY)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    target, name = tmp_path / "found.json", "CPU fp32, one caption, base, 5 tokens"
    compare.main(["--only", "CPU fp32, one", "--tokens", "5", "--pairs", "1", "--json", str(target)])
    (row,) = json.loads(target.read_text(encoding="utf-8"))
    assert set(row) == {"name", "ours", "reference", "unit", "ratio"}
    assert (row["name"], row["unit"]) == (name, "s")
    assert row["ratio"] == pytest.approx(row["reference"] / row["ours"], rel=0.01)
    told = target.with_suffix(".md").read_text(encoding="utf-8")
    assert all(word in told for word in ("machine: ", "torch", "--only 'CPU fp32, one' --tokens 5", f"| {name} |"))
    assert f"| {name} |" in capsys.readouterr().out


def test_without_8_bit_layers_the_int8_rows_are_left_out_aloud(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "has_int8", lambda: False)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    with pytest.raises(SystemExit):
        compare.main(["--only", "CPU int8"])
    assert "the int8 rows are left out" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--tokens", "3"], ["--pairs", "0"], ["--only", "CPU fp16"]])
def test_what_cannot_be_measured_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.main(words)
    assert ended.value.code == 2


@pytest.mark.parametrize(("name", "million", "image_tokens"), [("base", 230, 577), ("large", 770, 577)])
def test_the_published_sizes(name: str, million: int, image_tokens: int, tmp_path: Path) -> None:
    size = published(name)
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "florence2",
                "vision_config": size.vision,
                "text_config": {**size.text, "vocab_size": 51_290},
                "image_token_id": 51_289,
            }
        ),
        encoding="utf-8",
    )
    config = read_config(tmp_path)
    assert config.grid[0] * config.grid[1] + 1 == image_tokens == size.image_tokens
    assert (config.preprocess.width, config.preprocess.height) == (size.side_px, size.side_px)
    with torch.device("meta"):
        count = sum(p.numel() for p in Network(config).parameters())
    assert count / 1e6 == pytest.approx(million, rel=0.2)
