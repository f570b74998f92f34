"""From an idle daemon to the first answer, against a fresh Python that makes transformers' Florence-2 ready.

`python tests/bench/coldstart.py`. Random weights of base's size on the CPU in float32, in the system's file cache on
both sides. Ours is the time of the first answer, for which the worker is started and the model loaded, less the median
of the next three; the reference is the time from starting Python until model and processor are there. The second row is
the same with `standby`, once the process that is kept has imported all it can. README.md says more.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.checkpoints import published, write_checkpoint
from tests.bench.daemons import end_orderly, jpeg, running, timed
from tests.bench.machine import circumstances
from tests.bench.rows import add_json_flag, at_least_one, in_turns, median_row, publish
from tests.daemon_process import Daemon

NAME = "cold: idle daemon to first answer, less a warm answer, base on CPU"
STANDBY_NAME = f"{NAME}, standby"
PAIRS = 7
TOKENS = 4
WARM = 3  # an answer takes several times as long as waking up with standby, and is as uneven as the machine
QUIET_S = 0.5
READY = "ready"
REFERENCE = f"""
import sys
import torch
from transformers import Florence2ForConditionalGeneration, Florence2Processor
model = Florence2ForConditionalGeneration.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
processor = Florence2Processor.from_pretrained(sys.argv[1])
assert sum(p.numel() for p in model.parameters()) and processor.image_token_id
print("{READY}", flush=True)
"""


@dataclass(frozen=True)
class Wake:
    """One waking up: the first answer and a usual one, in seconds, and the process that gave them."""

    cold_s: float
    warm_s: float
    worker_pid: int

    @property
    def seconds(self) -> float:
        return self.cold_s - self.warm_s


def wake(daemon: Daemon, number: int, *, standby: bool = False) -> Wake:
    """Send the worker home, then ask about pictures that are as large as each other."""
    timed(daemon, "/unload", b"")
    while timed(daemon, "/status")[1]["worker_pid"] is not None:
        time.sleep(0.05)
    if standby:
        _wait_until_quiet(daemon)
    path = f"/process_image?max_new_tokens={TOKENS}"
    first = (1 + WARM) * number
    cold_s, *warm_s = (timed(daemon, path, jpeg(picture))[0] for picture in range(first, first + 1 + WARM))
    return Wake(cold_s, statistics.median(warm_s), timed(daemon, "/status")[1]["worker_pid"])


def _wait_until_quiet(daemon: Daemon) -> None:
    """Until the daemon's spare process is there and has done what it can do without a model."""
    while (pid := timed(daemon, "/status")[1]["standby_pid"]) is None:
        time.sleep(0.05)
    spare, before_s = psutil.Process(pid), -1.0
    while (used_s := sum(spare.cpu_times()[:2])) != before_s:
        before_s = used_s
        time.sleep(QUIET_S)


def reference_s(directory: Path) -> float:
    """Seconds from starting Python until it says that all is there."""
    began_s = time.perf_counter()
    command = [sys.executable, "-c", REFERENCE, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        seconds = time.perf_counter() - began_s
    assert said.strip() == READY, "the reference failed"
    return seconds


def measure(directory: Path, pairs: int, *, standby: bool = False) -> list[tuple[Wake, float]]:
    """(ours, reference), after a pair that is not counted: it leaves the files in the system's cache."""
    words = ["--model", str(directory), "--device", "cpu", "--dtype", "float32", "--feature-cache", "0"]
    with running(*words, *["--standby"] * standby) as daemon:
        found = in_turns(
            1 + pairs, lambda number: wake(daemon, number, standby=standby), lambda _: reference_s(directory)
        )
    return found[1:]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Idle daemon to first answer, against a fresh transformers.")
    parser.add_argument("--pairs", type=at_least_one, default=PAIRS, help="pairs that are counted", metavar="N")
    add_json_flag(parser)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), published("base"))
        found = {name: measure(Path(folder), args.pairs, standby=name is STANDBY_NAME) for name in (NAME, STANDBY_NAME)}
    rows = [
        median_row(name, "s", [(ours.seconds, reference) for ours, reference in pairs]) for name, pairs in found.items()
    ]
    words = sys.argv[1:] if argv is None else argv
    about = circumstances(shlex.join(["python", "tests/bench/coldstart.py", *words]), "torch", "transformers")
    publish(rows, about, args.json)


if __name__ == "__main__":
    end_orderly()
    main()
