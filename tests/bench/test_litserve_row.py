"""The row against LitServe on a model of a few thousand parameters: both servers answer the same, together, and end."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.bench import compare, litserve_row, pairs
from tests.bench.checkpoints import TINY, questions, write_checkpoint
from tests.bench.compare import LITSERVE, chosen, cpu_measurements, measure_all
from tests.bench.daemons import ROOT, Server, as_jpeg, asked_at_once, timed
from tests.bench.litserve_row import Answers, Pictures, installed, litserve, request_body, rounds
from tests.bench.pairs import Bench
from tests.daemon_process import Daemon
from vision_server.worker.resources import usable_cores

TOKENS = 12

needs_litserve = pytest.mark.skipif(not installed(), reason="litserve is not installed")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    write_checkpoint(directory, TINY)
    return directory


def pictures(count: int) -> list[bytes]:
    return [as_jpeg(image) for image, _ in questions(TINY, 0, count)]


def stopped(process: psutil.Process) -> bool:
    """Within some seconds: the signal takes effect when the process is next looked at."""
    give_up_s = time.monotonic() + 10
    while process.status() != psutil.STATUS_STOPPED:
        if time.monotonic() > give_up_s:
            return False
        time.sleep(0.01)
    return True


@needs_litserve
@pytest.mark.timeout(900)  # it starts Python several times, which a busy machine makes long
def test_the_server_batches_stays_on_this_machine_rests_and_ends(checkpoint: Path) -> None:
    with litserve(checkpoint, TOKENS, threads=1) as server:
        server.wait_until_ready()
        first, *others = server.processes()
        assert all(stopped(child) for child in others)
        one = server.ask(pictures(1), TOKENS)
        assert all(stopped(child) for child in others)
        for child in others:
            child.resume()
        _, said = asked_at_once(server, "/predict", [request_body(picture) for picture in pictures(8)])
        assert said[0]["result"] == one.texts[0]
        assert max(answer["batch"] for answer in said) > 1, "requests sent at once are answered together"
        assert len({answer["result"] for answer in said}) == 8
        listening = {c.laddr.ip for p in (first, *others) for c in p.net_connections("inet") if c.status == "LISTEN"}
        assert listening == {"127.0.0.1"}
        with pytest.raises(AssertionError, match="tokens were asked for"):
            server.ask(pictures(1), TOKENS + 1)
    assert not psutil.wait_procs([first, *others], 0)[1]


@needs_litserve
@pytest.mark.timeout(900)
@pytest.mark.parametrize("end", ["kill the script", "end the server"])
def test_no_process_of_the_server_outlives_it_or_the_script(checkpoint: Path, end: str) -> None:
    program = (
        "import sys, time; from pathlib import Path; from tests.bench.litserve_row import litserve\n"
        "with litserve(Path(sys.argv[1]), 4, 1) as server:\n"
        "    server.wait_until_ready(); print(*(one.pid for one in server.processes()), flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(checkpoint)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as script:
        try:
            assert script.stdout is not None
            first, *others = (psutil.Process(int(pid)) for pid in script.stdout.readline().split())
            assert len(others) > 1
            {"kill the script": script.kill, "end the server": first.terminate}[end]()
            assert not psutil.wait_procs(others, 60)[1]
        finally:
            script.kill()
    assert not psutil.wait_procs([first], 60)[1]


@needs_litserve
def test_a_server_that_does_not_start_is_an_error_with_its_words(tmp_path: Path) -> None:
    with litserve(tmp_path / "missing", TOKENS, threads=1) as server:
        with pytest.raises(AssertionError, match=r"did not start: (.|\n)*missing"):
            server.wait_until_ready()


@needs_litserve
@pytest.mark.timeout(900)
def test_the_row_compares_answers_that_are_the_same(checkpoint: Path) -> None:
    bench = Bench(checkpoint, TINY, TOKENS, pairs=1)
    measurements = chosen(cpu_measurements("base", TOKENS), ["against"])
    (row,) = measure_all(bench, measurements, ["against"])
    assert (row.name, row.unit) == (LITSERVE, "captions/s")
    assert row.ours > 0
    assert row.reference > 0


@needs_litserve
@pytest.mark.timeout(900)
@pytest.mark.skipif(usable_cores() < 2, reason="one core is all there is")
def test_fewer_threads_hold_for_our_worker_too(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = []

    def noted(server: Server, path: str, bodies: Pictures) -> tuple[float, list[Any]]:
        found = asked_at_once(server, path, bodies)
        if isinstance(server, Daemon):
            cores.append(psutil.Process(timed(server, "/status")[1]["worker_pid"]).cpu_affinity())
        return found

    monkeypatch.setattr(litserve_row, "asked_at_once", noted)
    [(ours, theirs)] = rounds(checkpoint, TOKENS, 1, [pictures(2)])
    assert ours.texts == theirs.texts
    assert [len(one or []) for one in cores] == [1, 1]


def test_other_texts_than_the_references_are_an_error(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(checkpoint, TINY, TOKENS, pairs=1)

    def rounds(directory: Path, tokens: int, threads: int, asked: list[Pictures]) -> list[tuple[Answers, Answers]]:
        texts = [f"text {number}" for number in range(len(asked[0]))]
        return [(Answers(1.0, texts), Answers(2.0, [*texts[:-1], "another"]))]

    monkeypatch.setattr(pairs, "rounds", rounds)
    with pytest.raises(AssertionError, match="answer 7 differs"):
        bench.behind_litserve(usual_pairs=1)


def names(size: str) -> list[str]:
    return [name for measurement in cpu_measurements(size, TOKENS) for name in measurement.names]


def test_without_litserve_its_row_is_left_out_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert LITSERVE in names("base") or not installed()
    monkeypatch.setattr(compare, "installed", lambda: False)
    assert LITSERVE not in names("base")
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    with pytest.raises(SystemExit):
        compare.main(["--only", "against", "--json", str(tmp_path / "found.json")])
    assert "litserve is not installed" in capsys.readouterr().err
