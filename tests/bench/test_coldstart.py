"""Waking up, with a tiny model: that a new process loads each time, and that the reference really loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import coldstart
from tests.bench.checkpoints import TINY
from tests.bench.coldstart import Wake, reference_s, wake
from tests.daemon_process import Daemon


@pytest.mark.timeout(900)  # it starts Python many times, which a busy machine makes long
def test_the_script_writes_its_row_and_every_waking_up_is_a_new_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wakes = []

    def noted(daemon: Daemon, number: int) -> Wake:
        wakes.append(wake(daemon, number))
        return wakes[-1]

    monkeypatch.setattr(coldstart, "published", lambda name: TINY)
    monkeypatch.setattr(coldstart, "wake", noted)
    target = tmp_path / "found.json"
    coldstart.main(["--pairs", "1", "--json", str(target)])
    (row,) = json.loads(target.read_text(encoding="utf-8"))
    assert set(row) == {"name", "ours", "reference", "unit", "ratio"}
    assert (row["name"], row["unit"]) == ("cold: idle daemon to first answer, less a warm answer, base on CPU", "s")
    assert row["ours"] == pytest.approx(wakes[1].cold_s - wakes[1].warm_s, rel=0.01), "the first is not counted"
    assert row["ratio"] == pytest.approx(row["reference"] / row["ours"], rel=0.01)
    assert len({one.worker_pid for one in wakes}) == len(wakes) == 2


def test_a_reference_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coldstart, "REFERENCE", "raise SystemExit(1)")
    with pytest.raises(AssertionError, match="the reference failed"):
        reference_s(tmp_path)
