"""Captions against transformers' native Florence-2 `generate`, one picture at a time: latency, throughput, decoder.

`python tests/bench/compare.py` measures random weights of base's size on the CPU in float32, `--large` those of large
too; `--device cuda` measures large on a GPU in float16. Every picture is another one, answers have a fixed number of
tokens, both sides run in this process with as many threads, in turns; medians are compared. In float32 the tokens must
be the same. README.md says what each row means.
"""

from __future__ import annotations

import argparse
import gc
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.bench.checkpoints import published, write_checkpoint
from tests.bench.contenders import BEAMS, Run
from tests.bench.daemons import end_orderly
from tests.bench.litserve_row import QUEUED, installed
from tests.bench.machine import circumstances
from tests.bench.pairs import WARM_TOKENS, Bench
from tests.bench.rows import Row, add_json_flag, at_least_one, median_row, publish
from vision_server.engine.linear import int8, works
from vision_server.worker.resources import usable_cores

TOKENS = 60
PAIRS_OF_ONE, PAIRS_OF_MANY, PAIRS_OF_SECOND = 5, 2, 3
LITSERVE = (
    "against the same reference behind LitServe with its dynamic batching (what one would pick instead), "
    f"{QUEUED} queued, base, CPU"
)
STEP_LIMIT = 3  # times reading the decoder's weights once

Only = Sequence[str]


@dataclass(frozen=True)
class Measurement:
    """What is measured together. `measure` returns the rows that are wanted of `names`, in their order."""

    names: tuple[str, ...]
    measure: Callable[[Bench, Only], list[Row]]


@dataclass(frozen=True)
class Told:
    """A row: what is told of a run of ours in `dtype` (None: the reference's) and of the reference, or a `limit`."""

    name: str
    unit: str
    value: Callable[[Run], float]
    dtype: str | None = None
    limit: Callable[[Bench], float] | None = None


def cpu_measurements(size: str, tokens: int) -> list[Measurement]:
    too = "" if size == "base" else f", {size}"  # what the names of base do not say
    decoder = f"CPU fp32, decoder alone, {QUEUED} requests x {BEAMS} beams, ms per token and request{too}"
    eight_bit = (
        [
            Told(f"CPU int8, one caption{too}", "s", _seconds, "int8"),
            Told(f"CPU int8, {QUEUED} queued{too}", "captions/s", _rate, "int8"),
        ]
        if has_int8()
        else []
    )
    measurements = [
        _captions(
            1,
            Told(f"CPU fp32, one caption, {size}, {tokens} tokens", "s", _seconds),
            *eight_bit[:1],
        ),
        _captions(
            QUEUED,
            Told(f"CPU fp32, {QUEUED} queued captions, {size}, captions per second", "captions/s", _rate),
            Told(decoder, "ms", _ms_per_token),
            *eight_bit[1:],
        ),
        _second(f"second prompt on the same picture, {size}, {tokens} tokens"),
    ]
    return [*measurements, _litserve(LITSERVE)] if size == "base" and installed() else measurements


def has_int8() -> bool:
    return works(int8, torch.float32)


def gpu_measurements(size: str, tokens: int) -> list[Measurement]:
    step = f"GPU fp16, decoder step of one caption, {size}, against {STEP_LIMIT} x reading its weights"
    return [
        _captions(
            1,
            Told(f"GPU fp16, one caption, {size}, {tokens} tokens", "s", _seconds),
            Told(step, "ms", _ms_per_token, limit=lambda bench: STEP_LIMIT * bench.least_step_ms()),
        ),
        _captions(64, Told(f"GPU fp16, 64 queued captions, {size}", "captions/s", _rate)),
    ]


def _seconds(run: Run) -> float:
    return run.seconds


def _rate(run: Run) -> float:
    """Captions a second."""
    return len(run.ids) / run.seconds


def _ms_per_token(run: Run) -> float:
    return run.ms_per_token


def _captions(at_once: int, *rows: Told) -> Measurement:
    """The rows of one and the same captions, so that the reference, which takes the longest, runs once for all."""

    def measure(bench: Bench, only: Only) -> list[Row]:
        told = [(row, row.dtype or bench.dtype) for row in rows if wanted(row.name, only)]
        dtypes = list(dict.fromkeys(dtype for _, dtype in told))
        turns = bench.captions(at_once, PAIRS_OF_ONE if at_once == 1 else PAIRS_OF_MANY, dtypes)
        found = []
        for row, dtype in told:
            limit = row.limit(bench) if row.limit else None
            values = [
                (row.value(ours[dtypes.index(dtype)]), row.value(reference) if limit is None else limit)
                for ours, reference in turns
            ]
            found.append(median_row(row.name, row.unit, values))
        return found

    return Measurement(tuple(row.name for row in rows), measure)


def _second(name: str) -> Measurement:
    def measure(bench: Bench, only: Only) -> list[Row]:
        turns = bench.second_prompts(PAIRS_OF_SECOND)
        return [median_row(name, "s", [(ours.seconds, reference.seconds) for [ours], reference in turns])]

    return Measurement((name,), measure)


def _litserve(name: str) -> Measurement:
    def measure(bench: Bench, only: Only) -> list[Row]:
        found = bench.behind_litserve(PAIRS_OF_MANY)
        return [median_row(name, "captions/s", [(QUEUED / ours, QUEUED / reference) for ours, reference in found])]

    return Measurement((name,), measure)


def wanted(name: str, only: Only) -> bool:
    """Whether it begins as one of `only`; all are wanted without it."""
    return not only or name.startswith(tuple(only))


def chosen(measurements: Sequence[Measurement], only: Only) -> list[Measurement]:
    """Those with a row that is wanted."""
    return [m for m in measurements if any(wanted(name, only) for name in m.names)]


def measure_all(bench: Bench, measurements: Sequence[Measurement], only: Only) -> list[Row]:
    return [row for measurement in measurements for row in measurement.measure(bench, only)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Captions against transformers' native Florence-2, in pairs.")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for the GPU's rows")
    parser.add_argument("--large", action="store_true", help="on the CPU: large as well as base")
    parser.add_argument("--tokens", type=at_least_one, default=TOKENS, help="tokens of an answer", metavar="N")
    parser.add_argument("--pairs", type=at_least_one, help="pairs a row (default: each row's own)", metavar="N")
    parser.add_argument(
        "--threads", type=at_least_one, default=usable_cores(), help="of both sides (default: all cores)", metavar="N"
    )
    parser.add_argument("--only", action="append", default=[], help="rows whose name begins so", metavar="NAME")
    add_json_flag(parser)
    args = parser.parse_args(argv)
    if args.tokens < WARM_TOKENS:
        parser.error(f"--tokens must be at least {WARM_TOKENS}, since the first and the last are forced")
    on_cpu = args.device == "cpu"
    if on_cpu and not installed():
        sys.stderr.write("litserve is not installed; the row against it is left out\n")
    if on_cpu and not has_int8():
        sys.stderr.write("this CPU has no 8-bit linear layers; the int8 rows are left out\n")
    torch.set_num_threads(args.threads)
    plans = {
        name: chosen((cpu_measurements if on_cpu else gpu_measurements)(name, args.tokens), args.only)
        for name in ((["base", "large"] if args.large else ["base"]) if on_cpu else ["large"])
    }
    if not any(plans.values()):
        parser.error("no row has such a name")
    rows: list[Row] = []
    for name, measurements in plans.items():
        if measurements:
            with tempfile.TemporaryDirectory() as folder:
                write_checkpoint(Path(folder), published(name))
                bench = Bench(Path(folder), published(name), args.tokens, args.device, args.pairs)
                rows += measure_all(bench, measurements, args.only)
                del bench
                gc.collect()
    words = sys.argv[1:] if argv is None else argv
    packages = ["torch", "transformers", *(["litserve"] if installed() else [])]
    about = circumstances(shlex.join(["python", "tests/bench/compare.py", *words]), *packages)
    publish(rows, {**about, "threads": args.threads}, args.json)


if __name__ == "__main__":
    end_orderly()
    main()
