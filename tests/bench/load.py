"""How long a full-size checkpoint takes to load, against reading its file, and how much memory the load holds.

`python -m tests.bench.load` writes random checkpoints of base's and large's size into a temporary folder (3.3 GB at
most), measures each in a process of its own and writes results/load.json. With `--directory` it measures that one
checkpoint and prints a line of JSON; tests/engine/test_full_size.py asks it for the peak.
"""

from __future__ import annotations

import argparse
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
from tests.full_size import write_bin, write_description, write_safetensors

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "vision_server" / "models" / "demo"
CASES = (
    ("base", "safetensors", "float16", ("float16", "float32")),
    ("base", "bin", "float16", ("float16", "float32")),
    ("large", "safetensors", "float16", ("float16", "float32")),
    ("large", "safetensors", "float32", ("float16", "float32")),
)


def write_checkpoint(directory: Path, size: str, form: str, stored: str) -> None:
    """`form` is safetensors or bin, `stored` the dtype in the file. The head is stored, as fine-tunes do."""
    write_description(directory, size)
    if form == "bin":
        write_bin(directory, size, head=True)
    else:
        write_safetensors(directory, size, head=True, dtype=stored)


def measure(directory: Path, dtype: str, pairs: int) -> dict[str, Any]:
    """The first load's peak, then medians in seconds over `pairs` of reading the weights and loading them.

    The peak is the high-water mark of the whole resident set, private memory and mapped pages of files alike, above
    where it stood before: a mapped page that is clean could be dropped at any time, but until it is, it is there. None
    where the system does not tell. Warm: the system has the file in memory. Cold: it is made to drop it before each
    half of a pair, which only Linux does. Seconds of the processor stand beside those of the clock, since on a machine
    that is busy with something else only they say much.
    """
    from vision_server.engine import Florence

    Florence.load(DEMO, "cpu", dtype)  # torch and the libraries take their own memory and first time now
    files = [path for path in directory.iterdir() if path.suffix in (".safetensors", ".bin")]
    before_bytes = _start_high_water()
    florence = Florence.load(directory, "cpu", dtype)
    peak_bytes = None if before_bytes is None else _status_bytes("VmHWM") - before_bytes
    tensor_bytes = florence.network.weight_bytes
    del florence
    load = partial(Florence.load, directory, "cpu", dtype)
    halves: dict[str, Callable[[], object]] = {"read": partial(_read, files), "load": load}
    seconds: dict[str, list[float]] = {}
    for _ in range(pairs):
        for warmth in ("warm", "cold") if sys.platform == "linux" else ("warm",):
            for name, act in halves.items():
                _prepare(files, warmth)
                began_s, began_cpu_s = time.perf_counter(), time.process_time()
                act()
                seconds.setdefault(f"{warmth}_{name}_s", []).append(time.perf_counter() - began_s)
                seconds.setdefault(f"{warmth}_{name}_cpu_s", []).append(time.process_time() - began_cpu_s)
    return {
        "file_bytes": sum(path.stat().st_size for path in files),
        "tensor_bytes": tensor_bytes,
        "peak_bytes": peak_bytes,
        **{name: round(statistics.median(values), 3) for name, values in seconds.items()},
    }


def _prepare(files: list[Path], warmth: str) -> None:
    if warmth == "warm":
        _read(files)
        return
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(files: list[Path]) -> None:
    buffer = bytearray(8 << 20)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _start_high_water() -> int | None:
    """Set the high-water mark of this process to what it holds now, and return that in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def in_a_process_of_its_own(directory: Path, dtype: str, pairs: int) -> dict[str, Any]:
    """`measure` where nothing was loaded before."""
    command = [sys.executable, "-m", "tests.bench.load", "--directory", str(directory)]
    command += ["--dtype", dtype, "--pairs", str(pairs)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of loading full-size checkpoints on the CPU.")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of reading and loading a case")
    parser.add_argument("--directory", type=Path, help="measure this checkpoint only")
    parser.add_argument("--dtype", default="float16")
    args = parser.parse_args()
    if args.directory:
        sys.stdout.write(json.dumps(measure(args.directory, args.dtype, args.pairs)) + "\n")
        return
    rows = []
    for size, form, stored, dtypes in CASES:
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder), size, form, stored)
            for dtype in dtypes:
                row = {"size": size, "form": form, "stored": stored, "dtype": dtype}
                rows.append(row | in_a_process_of_its_own(Path(folder), dtype, args.pairs))
                sys.stdout.write(json.dumps(rows[-1]) + "\n")
    about = circumstances(f"python -m tests.bench.load --pairs {args.pairs}", "torch", "safetensors")
    given = {"pairs": args.pairs, "threads": os.environ.get("OMP_NUM_THREADS", "all")}
    sys.stdout.write(f"{write_result('load', {**about, **given, 'rows': rows})}\n")


if __name__ == "__main__":
    main()
