"""From an idle daemon to the first answer, against a fresh Python that makes transformers' Florence-2 ready.

`python tests/bench/coldstart.py`. Random weights of base's size on the CPU in float32, in the system's file cache on
both sides. Ours is the time of the first answer, for which the worker is started and the model loaded, less that of the
next one; the reference is the time from starting Python until model and processor are there. README.md says more.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.checkpoints import published, write_checkpoint
from tests.bench.daemons import jpeg, running, timed
from tests.bench.machine import circumstances
from tests.bench.rows import add_json_flag, at_least_one, in_turns, median_row, publish
from tests.daemon_process import Daemon

NAME = "cold: idle daemon to first answer, less a warm answer, base on CPU"
PAIRS = 7
TOKENS = 4
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
    """One waking up: the first answer and the next, in seconds, and the process that gave them."""

    cold_s: float
    warm_s: float
    worker_pid: int

    @property
    def seconds(self) -> float:
        return self.cold_s - self.warm_s


def wake(daemon: Daemon, number: int) -> Wake:
    """Send the worker home, then ask about two pictures that are as large as each other."""
    timed(daemon, "/unload", b"")
    while timed(daemon, "/status")[1]["worker_pid"] is not None:
        time.sleep(0.05)
    path = f"/process_image?max_new_tokens={TOKENS}"
    cold_s, warm_s = (timed(daemon, path, jpeg(picture))[0] for picture in (2 * number, 2 * number + 1))
    return Wake(cold_s, warm_s, timed(daemon, "/status")[1]["worker_pid"])


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


def measure(directory: Path, pairs: int) -> list[tuple[Wake, float]]:
    """(ours, reference), after a pair that is not counted: it leaves the files in the system's cache."""
    with running("--model", str(directory), "--device", "cpu", "--dtype", "float32", "--feature-cache", "0") as daemon:
        found = in_turns(1 + pairs, lambda number: wake(daemon, number), lambda _: reference_s(directory))
    return found[1:]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Idle daemon to first answer, against a fresh transformers.")
    parser.add_argument("--pairs", type=at_least_one, default=PAIRS, help="pairs that are counted", metavar="N")
    add_json_flag(parser)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), published("base"))
        found = measure(Path(folder), args.pairs)
    rows = [median_row(NAME, "s", [(ours.seconds, reference) for ours, reference in found])]
    words = sys.argv[1:] if argv is None else argv
    about = circumstances(shlex.join(["python", "tests/bench/coldstart.py", *words]), "torch", "transformers")
    publish(rows, about, args.json)


if __name__ == "__main__":
    main()
