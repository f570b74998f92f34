"""What the daemon adds to the model's work: to a caption, by HTTP, queue and pipe; and how soon `/prompts` is answered
while the model keeps all cores busy.

`python tests/bench/overhead.py`. For the first the worker is the one without a model, which spends no time on a
picture, so that the whole time of a request is what was added; for the second it is a real one with random weights of
base's size on the CPU, and eight requests always wait for it. README.md says what each row means.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psutil

from tests.bench.checkpoints import published, write_checkpoint
from tests.bench.daemons import end_orderly, jpeg, running, timed
from tests.bench.machine import circumstances
from tests.bench.rows import Row, add_json_flag, at_least_one, percentile, publish
from tests.daemon_process import Daemon

ADDED = "added by HTTP, queue and pipe, 1 MB JPEG, median"
PROMPTS = "`/prompts` while both cores generate, p99"
ADDED_LIMIT_MS, PROMPTS_LIMIT_MS = 5.0, 20.0
JPEG_BYTES = 1_000_000
WARM_UP = 10
CALLERS = 8
TOKENS = 60
POLL_EVERY_S = 0.01


def added_ms(requests: int) -> list[float]:
    """The time of each request, with a picture of 1 MB, that no model works on."""
    pictures = [jpeg(number, JPEG_BYTES) for number in range(8)]
    times_s = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text("{}", encoding="utf-8")
        with running("--model", folder, module="tests.fake_daemon") as daemon:
            for number in range(WARM_UP + requests):
                picture = pictures[number % len(pictures)]
                seconds, answer = timed(daemon, "/process_image", picture)
                assert answer == {"result": f"<CAPTION>||{len(picture)}"}, "the worker must have got all of it"
                times_s.append(seconds)
    return [1000 * seconds for seconds in times_s[WARM_UP:]]


def prompts_ms(directory: Path, requests: int, tokens: int = TOKENS) -> tuple[list[float], float]:
    """The time of each `GET /prompts` while captions are made, and how many cores the worker used meanwhile."""
    pause = threading.Event()  # never set: a wait that ends in time
    with running("--model", str(directory), "--device", "cpu", "--dtype", "float32") as daemon, _busy(daemon, tokens):
        while (status := timed(daemon, "/status")[1])["state"] != "ready" or not status["in_flight"]:
            pause.wait(POLL_EVERY_S)
        worker = psutil.Process(status["worker_pid"])
        used_s, began_s, times_s = _cpu_s(worker), time.perf_counter(), []
        for _ in range(requests):
            times_s.append(timed(daemon, "/prompts")[0])
            pause.wait(POLL_EVERY_S)
        cores = (_cpu_s(worker) - used_s) / (time.perf_counter() - began_s)
    return [1000 * seconds for seconds in times_s], cores


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def _busy(daemon: Daemon, tokens: int) -> Iterator[None]:
    """CALLERS threads that ask for one caption after the other, each of another picture. Raises AssertionError when
    one of them had none."""
    numbers, enough = count(), threading.Event()
    answered: list[str] = []

    def call() -> None:
        while not enough.is_set():
            picture = jpeg(next(numbers))
            answered.append(timed(daemon, f"/process_image?max_new_tokens={tokens}", picture)[1]["result"])

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(call) for _ in range(CALLERS)]
        try:
            yield
        finally:
            enough.set()
        for caller in callers:
            caller.result()
    assert all(answered)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What HTTP, queue and pipe add to the model's work.")
    parser.add_argument("--captions", type=at_least_one, default=300, help="requests with a picture", metavar="N")
    parser.add_argument("--requests", type=at_least_one, default=1000, help="requests for /prompts", metavar="N")
    add_json_flag(parser)
    args = parser.parse_args(argv)
    rows = [Row(ADDED, statistics.median(added_ms(args.captions)), ADDED_LIMIT_MS, "ms")]
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), published("base"))
        times_ms, cores = prompts_ms(Path(folder), args.requests)
    rows.append(Row(PROMPTS, percentile(times_ms, 99), PROMPTS_LIMIT_MS, "ms"))
    words = sys.argv[1:] if argv is None else argv
    about = circumstances(shlex.join(["python", "tests/bench/overhead.py", *words]), "aiohttp", "torch")
    publish(rows, {**about, "cores that the worker used": round(cores, 2)}, args.json)


if __name__ == "__main__":
    end_orderly()
    main()
