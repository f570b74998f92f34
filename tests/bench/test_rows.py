from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.rows import Row, in_turns, median_row, percentile, publish, table


def test_a_ratio_above_one_means_that_ours_is_better() -> None:
    assert Row("latency", 2.0, 3.0, "s").ratio == 1.5
    assert Row("limit", 4.0, 5.0, "ms").ratio == 1.25
    assert Row("rate", 3.0, 2.0, "captions/s").ratio == 1.5


def test_medians_of_each_side() -> None:
    row = median_row("x", "s", [(1.0, 10.0), (9.0, 30.0), (2.0, 20.0)])
    assert (row.ours, row.reference, row.ratio) == (2.0, 20.0, 10.0)


def test_percentiles() -> None:
    assert percentile(range(1, 1001), 99) == 990
    assert percentile(range(1, 1001), 50) == 500
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0


def test_pairs_alternate() -> None:
    order: list[str] = []

    def noted(side: str, number: int) -> str:
        order.append(f"{side}{number}")
        return order[-1]

    found = in_turns(3, lambda number: noted("o", number), lambda number: noted("r", number))
    assert found == [("o0", "r0"), ("o1", "r1"), ("o2", "r2")]
    assert order == ["o0", "r0", "r1", "o1", "o2", "r2"]


def test_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, path = [Row("a", 1.23456, 2.0, "s"), Row("b", 30.0, 10.0, "captions/s")], tmp_path / "found.json"
    publish(rows, {"command": "python x", "versions": {"python": "3", "torch": "2"}}, path)
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"name": "a", "ours": 1.235, "reference": 2.0, "unit": "s", "ratio": 1.62},
        {"name": "b", "ours": 30.0, "reference": 10.0, "unit": "captions/s", "ratio": 3.0},
    ]
    text = (tmp_path / "found.md").read_text(encoding="utf-8")
    assert text.startswith("- command: python x\n- versions: python 3, torch 2\n\n| what |")
    assert text.endswith("| b | 30 | 10 | captions/s | 3.00 |\n")
    assert capsys.readouterr().out == table(rows)
