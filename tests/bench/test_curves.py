"""The curves on a model of a few thousand parameters, and what they are made of: arrivals, the open loop, the files."""

from __future__ import annotations

import itertools
import json
import statistics
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.bench.checkpoints import TINY

pytest.importorskip("matplotlib")

from tests.bench import curves
from tests.bench.curves import Depth, Load, arrivals, open_loop, publish, tables

DEPTHS = [Depth(queued, queued / (1 + queued), 900.0 + queued, 0.0) for queued in (1, 2, 4)]
LOADS = [Load("1/2", 0.4, [1.0, 2.0, 1.5, 9.0]), Load("4/5", 0.64, [3.0, 2.0, 8.0, 4.0])]


def test_arrivals_are_a_poisson_process_of_their_rate_and_seed() -> None:
    times_s = arrivals(4.0, 20_000, seed=1)
    assert times_s == arrivals(4.0, 20_000, seed=1) != arrivals(4.0, 20_000, seed=2)
    assert times_s == sorted(times_s)
    gaps_s = [after - before for before, after in itertools.pairwise(times_s)]
    assert statistics.mean(gaps_s) == pytest.approx(1 / 4, rel=0.03)
    assert statistics.stdev(gaps_s) == pytest.approx(1 / 4, rel=0.03), "exponential: the spread is the mean"
    in_seconds = [sum(second <= at_s < second + 1 for at_s in times_s) for second in range(400)]
    assert statistics.variance(in_seconds) == pytest.approx(statistics.mean(in_seconds), rel=0.25)
    half_rate = arrivals(2.0, 20_000, seed=1)
    assert half_rate == pytest.approx([2 * at_s for at_s in times_s])


def test_requests_come_whether_or_not_others_are_answered() -> None:
    """None of them ends before all have come, and each waited from its own time on."""
    together = threading.Barrier(3, timeout=60)
    times_s = [0.0, 0.05, 0.2]
    latencies_s = open_loop(lambda number: together.wait(), times_s)
    assert all(latency_s >= 0.2 - at_s for latency_s, at_s in zip(latencies_s, times_s, strict=True))
    assert latencies_s[0] > latencies_s[1] > latencies_s[2]


def test_a_request_that_fails_is_an_error() -> None:
    with pytest.raises(ZeroDivisionError):
        open_loop(lambda number: 1 // number, [0.0, 0.0])


def test_percentiles_of_a_load() -> None:
    assert (LOADS[0].p50_s, LOADS[0].p99_s) == (1.5, 9.0)


def test_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    publish(DEPTHS, LOADS, {"tokens": 20}, path)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["tokens"] == 20
    assert [one["queued"] for one in found["depths"]] == [1, 2, 4]
    assert found["loads"][1] == {
        "share": "4/5",
        "per_s": 0.64,
        "latencies_s": [3.0, 2.0, 8.0, 4.0],
        "p50_s": 3.0,
        "p99_s": 8.0,
    }
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    assert text.startswith("- tokens: 20\n\n| asked at once |")
    assert "| 4 | 0.8 | 904 | - |" in text
    assert "| 1 | 1 | 900 | 4000 |" in tables([Depth(1, 1.0, 900.0, 4000.4)], [])
    assert "| 1/2 | 0.4 | 4 | 1.5 | 9 |" in text
    assert "(found.svg)" in text
    assert capsys.readouterr().out == tables(DEPTHS, LOADS)


def test_the_plot_is_small_the_same_each_time_and_shows_a_gpu_only_where_there_is_one(tmp_path: Path) -> None:
    sizes = []
    for name, depths in (("one", DEPTHS), ("two", DEPTHS), ("gpu", [Depth(1, 1.0, 900.0, 4000.0)])):
        publish(depths, LOADS, {}, tmp_path / f"{name}.json")
        root = ET.fromstring((tmp_path / f"{name}.svg").read_text(encoding="utf-8"))
        assert root.tag.endswith("svg")
        sizes.append((tmp_path / f"{name}.svg").stat().st_size)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert max(sizes) < 100_000


@pytest.mark.timeout(900)  # a daemon with torch, which a busy machine makes long
def test_the_script_asks_a_daemon_and_writes_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "published", lambda name: TINY)
    path = tmp_path / "found.json"
    curves.main(["--tokens", "4", "--captions", "1", "--arrivals", "5", "--json", str(path)])
    found = json.loads(path.read_text(encoding="utf-8"))
    assert [one["queued"] for one in found["depths"]] == [1, 2, 4, 8, 16, 32]
    assert all(one["captions_per_s"] > 0 and one["worker_mb"] > 50 and one["gpu_mb"] == 0 for one in found["depths"])
    most = max(one["captions_per_s"] for one in found["depths"])
    assert [load["per_s"] for load in found["loads"]] == pytest.approx([most / 2, 0.8 * most])
    for load in found["loads"]:
        assert len(load["latencies_s"]) == 5
        assert 0 < load["p50_s"] <= load["p99_s"] == max(load["latencies_s"])
    assert found["device"] == "cpu"
    assert path.with_suffix(".md").exists()
    assert path.with_suffix(".svg").exists()
