"""The steps of a cold start: medians, the floor, and that the committed result has them all."""

from __future__ import annotations

import json

import pytest

from tests.bench.machine import RESULTS
from tests.bench.wake import floor_s, medians

STEPS = (
    "python",
    "import torch",
    "import the engine",
    "memory for the load",
    "load",
    "fill fresh memory",
    "first answer",
    "second answer",
)


def test_medians_are_taken_step_by_step() -> None:
    runs = [{"load": {"s": seconds, "page_faults": 10.0 * seconds}} for seconds in (3.0, 1.0, 2.0)]
    assert medians(runs) == {"load": {"s": 2.0, "page_faults": 20.0}}


def test_the_floor_is_what_is_written_at_the_rate_of_filling() -> None:
    assert floor_s({"s": 9.0, "bytes_written": 300.0}, {"s": 2.0, "bytes_written": 100.0}) == pytest.approx(6.0)


def test_the_committed_result_has_every_step() -> None:
    found = json.loads((RESULTS / "wake.json").read_text(encoding="utf-8"))
    assert set(STEPS) <= set(found["steps"])
    assert found["steps"]["load"]["bytes_written"] > 1e9
    assert 0 < found["load_floor_s"] < found["steps"]["load"]["s"] * 1.5
