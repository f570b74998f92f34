"""Waking up, with a tiny model: that a new process loads each time, and that the reference really loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import coldstart
from tests.bench.checkpoints import TINY
from tests.bench.coldstart import Wake, reference_s, wake
from tests.daemon_process import Daemon


@pytest.mark.timeout(900)  # it starts Python many times, which a busy machine makes long
def test_the_script_writes_its_rows_and_every_waking_up_is_a_new_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wakes = []

    waited: list[Any] = []  # what a daemon with a spare says of it, just before it is woken up

    def noted(daemon: Daemon, number: int, *, standby: bool) -> Wake:
        wakes.append(wake(daemon, number, standby=standby))
        return wakes[-1]

    def noted_wait(daemon: Daemon) -> None:
        wait(daemon)
        waited.append(daemon.call("/status")[1])

    monkeypatch.setattr(coldstart, "published", lambda name: TINY)
    wait = coldstart._wait_until_quiet
    monkeypatch.setattr(coldstart, "wake", noted)
    monkeypatch.setattr(coldstart, "_wait_until_quiet", noted_wait)
    target = tmp_path / "found.json"
    coldstart.main(["--pairs", "1", "--json", str(target)])
    rows = json.loads(target.read_text(encoding="utf-8"))
    name = "cold: idle daemon to first answer, less a warm answer, base on CPU"
    assert [row["name"] for row in rows] == [name, f"{name}, standby"]
    for row, counted in zip(rows, wakes[1::2], strict=True):  # the first of each daemon is not
        assert set(row) == {"name", "ours", "reference", "unit", "ratio"}
        assert row["unit"] == "s"
        assert row["ours"] == pytest.approx(counted.cold_s - counted.warm_s, rel=0.01)
        assert row["ratio"] == pytest.approx(row["reference"] / row["ours"], rel=0.01)
    assert len({one.worker_pid for one in wakes}) == len(wakes) == 4
    assert [one.worker_pid for one in wakes[2:]] == [status["standby_pid"] for status in waited]


def test_a_reference_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coldstart, "REFERENCE", "raise SystemExit(1)")
    with pytest.raises(AssertionError, match="the reference failed"):
        reference_s(tmp_path)
