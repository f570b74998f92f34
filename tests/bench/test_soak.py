"""The soak in its short form, with and without a leak; that each thing it must find is found; the committed result."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.bench import soak
from tests.bench.soak_clients import Clients
from tests.bench.soak_memory import MIB, Series, slope
from tests.bench.soak_plan import questions, refused
from tests.bench.soak_report import Soak, halves, is_to_blame, report
from tests.bench.soak_trouble import Api, Death, Killer, Log, Sample, Sampler
from vision_server.training.questions import PROMPTS

RESULT = Path(__file__).parent / "results" / "soak.json"
CALM = RESULT.with_name("soak_calm.json")
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="it sends signals, and counts open files")


def noisy(growth_mib_per_hour: float, hours: float = 0.5, height_mib: float = 50.0, seed: int = 0) -> Series:
    """Memory looked at twice a second, with noise of some 0.3 MiB and, now and then, a large picture."""
    rng = random.Random(seed)
    times = [step / 2 for step in range(int(hours * 7200))]
    return [
        (at_s, MIB * (height_mib + growth_mib_per_hour * at_s / 3600 + rng.gauss(0, 0.3) + 40 * (rng.random() < 0.05)))
        for at_s in times
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_slope_is_found_in_noise_and_none_where_there_is_none(seed: int) -> None:
    grows, flat = slope(noisy(10.0, seed=seed)), slope(noisy(0.0, seed=seed))
    assert grows
    assert flat
    assert grows.mib_per_hour == pytest.approx(10, abs=1)
    assert abs(flat.mib_per_hour) <= 4 * flat.noise_mib_per_hour
    assert grows.hours == pytest.approx(0.5, abs=0.01)
    assert grows.exceeds(4.0)
    assert not grows.exceeds(6.0)
    assert not flat.exceeds(0.5)


def test_lives_of_different_height_have_one_slope() -> None:
    lives = [noisy(30.0, 0.05, height_mib, height_mib) for height_mib in (700, 300, 500)]
    found = slope(*lives)
    assert found
    assert found.mib_per_hour == pytest.approx(30, abs=6)
    assert found.hours == pytest.approx(0.05, abs=0.01)
    assert slope([(0.0, 1.0), (1.0, 2.0)]) is None


def test_who_is_to_blame() -> None:
    crashes = [Death(1, "signal SIGSEGV", ("a", "b")), Death(2, "signal SIGSEGV", ("a",))]
    signals = dict.fromkeys((1, 2, 3), "SIGSEGV") | dict.fromkeys(range(10, 15), "SIGKILL") | {15: "SIGSTOP"}
    assert not is_to_blame("a", crashes, signals)
    assert is_to_blame("a", [*crashes, Death(3, "signal SIGSEGV", ("a",))], signals)
    assert not is_to_blame("b", [*crashes, Death(3, "signal SIGSEGV", ("a",))], signals)
    kills = [Death(pid, "signal SIGKILL", ("c", "d")) for pid in range(10, 14)]
    assert not is_to_blame("c", kills, signals)
    assert is_to_blame("c", [*kills, Death(15, "hang", ("c",))], signals)


def test_the_questions_are_different_and_the_same_for_the_same_seed() -> None:
    asked = questions(3 * len(PROMPTS), 5)
    assert [one.prompt for one in asked] == list(PROMPTS) * 3
    assert len({one.image for one in asked}) == len(PROMPTS)
    assert asked == questions(3 * len(PROMPTS), 5)
    assert asked != questions(3 * len(PROMPTS), 6)
    assert len(refused(asked[0], random.Random(1))) == 20


def sound() -> Soak:
    """One without a fault: a request, a death by a signal, and memory that does not grow."""
    clients = Clients(None, "http://127.0.0.1", [(questions(1, 1)[0], "")], 1)  # type: ignore[arg-type]
    tally = clients.tally
    tally.requests["good", "200"] = tally.sent_ids["a"] = tally.answered_ids["a"] = 1
    tally.latencies_s.append(0.5)
    api = Api(None, "")  # type: ignore[arg-type]
    killer = Killer(api, 0, random.Random())
    killer.signals[7] = "SIGKILL"
    log = Log()
    for message in (
        "worker 7 has ended (signal SIGKILL)",
        "the worker of demo died (signal SIGKILL) holding a, b",
        "the worker is released: idle",
        "answered POST /process_image",
    ):
        log.take(json.dumps({"level": "INFO", "message": message, "request_id": "a"}))
    sampler = Sampler(api, os.getpid())
    sampler.daemon += [Sample(at_s, int(rss), 9, 2) for at_s, rss in noisy(0.0)]
    for pid in range(4):
        sampler.born_s[pid] = 100.0 * pid
        sampler.lives[pid] = [(age, int(rss)) for age, rss in noisy(0.0, 0.02, 300.0, pid)]
    at_rest = Sample(0, 50 * MIB, 9, 2)
    return Soak(30.0, tally, api, killer, sampler, log, at_rest, at_rest, {"restarts": 1, "loads": 2}, 0, 0)


def test_a_sound_soak_is_told_as_such() -> None:
    found = report(sound())
    assert found["broken"] == []
    assert (found["requests"], found["worker deaths"], found["idle releases"], found["lost"]) == (1, 1, 1, 0)


def lost(one: Soak) -> None:
    one.tally.lost.append("a")


def crash_without_reason(one: Soak) -> None:
    one.tally.blamed_ids.append("a")


def wrong(one: Soak) -> None:
    one.tally.wrong.append("a")


def fault_of_a_client(one: Soak) -> None:
    one.tally.faults.append("a")


def fault_of_the_api(one: Soak) -> None:
    one.api.faults.append("a")


def answered_twice(one: Soak) -> None:
    one.log.answered_ids["a"] += 1


def not_in_the_log(one: Soak) -> None:
    one.log.answered_ids.clear()


def death_without_signal(one: Soak) -> None:
    one.killer.signals.clear()


def death_not_in_the_log(one: Soak) -> None:
    one.log.deaths.clear()


def exception(one: Soak) -> None:
    one.log.take(json.dumps({"message": "failed", "exception": "Traceback"}))


def daemon_grows(one: Soak) -> None:
    one.sampler.daemon[:] = [Sample(at_s, int(rss), 9, 2) for at_s, rss in noisy(20.0)]


def worker_grows(one: Soak) -> None:
    for pid in one.sampler.lives:
        one.sampler.lives[pid] = [(age, int(rss)) for age, rss in noisy(4000.0, 0.02, 300.0)]


def workers_grow(one: Soak) -> None:
    one.sampler.lives = {
        pid: [(age, rss + 50 * pid * MIB) for age, rss in life] for pid, life in one.sampler.lives.items()
    }


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (lost, "lost: 1"),
        (crash_without_reason, "lost: 1"),
        (wrong, "wrong answers: 1"),
        (fault_of_a_client, "against the documentation: 1"),
        (fault_of_the_api, "against the documentation: 1"),
        (answered_twice, "answered twice: 1"),
        (not_in_the_log, "answers that the log lacks: 1"),
        (death_without_signal, "worker deaths without a signal: 1"),
        (death_not_in_the_log, "deaths in the log: 0, in /status: 1"),
        (exception, "exceptions in the log: 1"),
        (daemon_grows, "the daemon grows"),
        (worker_grows, "the worker grows"),
        (workers_grow, "the worker grows"),
    ],
)
def test_whatever_must_not_be_is_told(breaks: Any, said: str) -> None:
    one = sound()
    breaks(one)
    broken = report(one)["broken"]
    assert len(broken) == 1
    assert broken[0].startswith(said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"after": Sample(0, 50 * MIB, 10, 2)}, "open files: 9 before, 10 after"),
        ({"after": Sample(0, 50 * MIB, 9, 20)}, "threads: 2 before, 20 after"),
        ({"exit_code": 1}, "exit code 1, processes left: 0"),
        ({"exit_code": None}, "exit code None, processes left: 0"),
        ({"left": 1}, "exit code 0, processes left: 1"),
    ],
)
def test_what_is_left_behind_is_told(change: dict[str, Any], said: str) -> None:
    assert report(dataclasses.replace(sound(), **change))["broken"] == [said]


@POSIX
def test_a_worker_that_is_stopped_is_not_taken_for_one_that_does_not_grow() -> None:
    sampler = Sampler(Api(None, ""), os.getpid())  # type: ignore[arg-type]
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]) as process:
        worker = psutil.Process(process.pid)
        status = {"worker_pid": process.pid, "state": "ready", "in_flight": 1}
        sampler.look_at_worker(status)
        worker.suspend()
        while worker.status() != psutil.STATUS_STOPPED:
            pass
        sampler.look_at_worker(status)
        assert len(sampler.lives[process.pid]) == 1
        worker.resume()
        while worker.status() == psutil.STATUS_STOPPED:
            pass
        sampler.look_at_worker(status)
        assert len(sampler.lives[process.pid]) == 2
        process.kill()


def test_how_much_a_life_grew_by_in_its_halves() -> None:
    assert halves([(0.0, 0), (10.0, 5 * MIB), (30.0, 7 * MIB), (60.0, 8 * MIB)]) == [7.0, 1.0]
    assert halves([]) == []


@POSIX
def test_the_short_form_is_sound() -> None:
    found = soak.run(0.3, questions(12, 2), 2)
    assert found["broken"] == [], found["examples"]
    assert found["requests"] >= 40
    assert found["worker deaths"] >= 1
    assert found["idle releases"] >= 1
    assert {kind.partition(":")[0] for kind in found["requests by kind and end"]} >= {"good", "wrong", "cancelled"}


@POSIX
def test_in_a_calm_one_a_single_worker_lives() -> None:
    found = soak.run(0.2, questions(6, 3), 3, calm=True)
    assert [one for one in found["broken"] if "grows" not in one] == [], found["examples"]
    assert (found["worker deaths"], found["signals sent"], found["idle releases"]) == (0, {}, 0)
    assert found["loads"] == 2, "one before, whose daemon is looked at when it is gone, and the one that lives"
    assert found["requests by kind and end"]["good: 200"] >= 5


@POSIX
@pytest.mark.parametrize("where", ["daemon", "worker"])
@pytest.mark.parametrize(
    "words",
    [
        pytest.param("--minutes 0.4 --questions 6", id="short"),
        pytest.param("--minutes 2 --questions 24", id="longer", marks=pytest.mark.soak),
        pytest.param("--minutes 2 --questions 24 --calm", id="calm", marks=pytest.mark.soak),
    ],
)
@pytest.mark.timeout(600)
def test_a_leak_is_found(where: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However long the soak is: how much is leaked goes by that."""
    target = tmp_path / "found.json"
    assert soak.main([*words.split(), "--leak", where, "--json", str(target)]) == 1
    found = json.loads(target.read_text(encoding="utf-8"))
    assert any(one.startswith(f"the {where} grows") for one in found["broken"]), found["broken"]
    assert (found["lost"], found["wrong answers"]) == (0, 0)
    assert "BROKEN" in capsys.readouterr().out


@pytest.mark.skipif(not RESULT.exists(), reason="no result is committed yet")
def test_the_committed_result_is_long_enough_and_sound() -> None:
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    assert found["minutes"] >= 30
    assert found["requests"] >= 10_000
    assert found["worker deaths"] >= 100
    assert found["idle releases"] >= 10
    assert (found["lost"], found["wrong answers"], found["answered twice"], found["broken"]) == (0, 0, 0, [])


def test_the_committed_calm_result_shows_that_growth_ends() -> None:
    found = json.loads(CALM.read_text(encoding="utf-8"))
    assert found["minutes"] >= 10
    assert found["requests"] >= 10_000
    assert (found["worker deaths"], found["loads"]) == (0, 2), "one worker all the time; another was there before"
    assert (found["lost"], found["wrong answers"], found["answered twice"], found["broken"]) == (0, 0, 0, [])
    first, second = found["worker growth MiB in its halves"]
    assert second < 1 < first
