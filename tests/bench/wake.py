"""What a cold start is made of: the worker's own steps, one after the other, with their time, system time and faults.

`python -m tests.bench.wake` writes results/wake.json. Random weights of base's size in float32 on the CPU, the file in
the system's cache. Each step is taken in a fresh process as one with `standby` takes them; medians over the processes.
A worker that is started cold makes memory its own while it imports torch. The floor of a load is what it must write, at
the speed at which one core fills memory that the process did not have before: `memory for the load` is below it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.machine import circumstances, write_result
from tests.bench.rows import at_least_one
from vision_server.worker.ahead import Heap, weight_bytes
from vision_server.worker.process import KEEP_MEMORY
from vision_server.worker.resources import usable_cores

PROCESSES = 5
TOKENS = 4
_FILLED_BYTES = 1 << 29


def steps(directory: Path, began_s: float) -> dict[str, dict[str, float]]:
    """Take them, in this process, which was started at `began_s` (seconds of time.time)."""
    import resource

    gc.disable()  # as the worker does
    found: dict[str, dict[str, float]] = {"python": {"s": time.time() - began_s}}

    def measured(name: str, act: Callable[[], Any]) -> Any:
        before, start_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        result = act()
        after = resource.getrusage(resource.RUSAGE_SELF)
        found[name] = {
            "s": time.perf_counter() - start_s,
            "system_s": after.ru_stime - before.ru_stime,
            "page_faults": after.ru_minflt - before.ru_minflt,
        }
        return result

    measured("import torch", lambda: __import__("torch"))
    engine = measured("import the engine", lambda: __import__("vision_server.engine", fromlist=["Florence"]))
    measured("memory for the load", lambda: Heap(weight_bytes(directory, "float32")).finish(usable_cores()))
    florence = measured("load", lambda: engine.Florence.load(directory, "cpu", "float32", feature_cache_bytes=0))
    found["load"]["bytes_written"] = florence.network.weight_bytes
    measured("fill fresh memory", lambda: b"\1" * _FILLED_BYTES)
    found["fill fresh memory"]["bytes_written"] = _FILLED_BYTES
    from tests.bench.checkpoints import published, questions  # only now, since it imports torch

    asked = questions(published("base"), 0, 3)
    for name, request in zip(("first answer", "second answer", "third answer"), asked, strict=True):
        measured(name, partial(florence.generate, [request], max_new_tokens=TOKENS))
    return found


def medians(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {key: float(f"{statistics.median(run[name][key] for run in runs):.3g}") for key in values}
        for name, values in runs[0].items()
    }


def floor_s(step: dict[str, float], filling: dict[str, float]) -> float:
    """Seconds in which a step could write what it writes, at the rate of filling fresh memory."""
    return float(f"{step['bytes_written'] * filling['s'] / filling['bytes_written']:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description="The steps of a cold start.")
    parser.add_argument("--processes", type=at_least_one, default=PROCESSES, help="fresh ones to measure", metavar="N")
    parser.add_argument("--steps", nargs=2, help=argparse.SUPPRESS)  # a folder and a time: what a fresh process does
    args = parser.parse_args()
    if args.steps:
        sys.stdout.write(json.dumps(steps(Path(args.steps[0]), float(args.steps[1]))))
        return
    from tests.bench.checkpoints import published, write_checkpoint

    runs = []
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), published("base"))
        for _ in range(1 + args.processes):
            words = [sys.executable, "-m", "tests.bench.wake", "--steps", folder, repr(time.time())]
            done = subprocess.run(words, env=KEEP_MEMORY | os.environ, stdout=subprocess.PIPE, check=True, text=True)
            runs.append(json.loads(done.stdout))
    found: dict[str, Any] = {"steps": medians(runs[1:])}
    found["load_floor_s"] = floor_s(found["steps"]["load"], found["steps"]["fill fresh memory"])
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    about = circumstances("python -m tests.bench.wake", "torch")
    sys.stdout.write(f"{write_result('wake', {**about, **found})}\n")


if __name__ == "__main__":
    main()
