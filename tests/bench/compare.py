"""Captions against transformers' native Florence-2 `generate`, one picture at a time: latency, throughput, decoder.

`python tests/bench/compare.py` measures random weights of base's size on the CPU in float32, `--large` those of large
too; `--device cuda` measures large on a GPU in float16. Every picture is another one, answers have a fixed number of
tokens, both sides run in this process with as many threads, in turns; medians are compared. In float32 the tokens must
be the same. README.md says what each row means.
"""

from __future__ import annotations

import argparse
import gc
import io
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from tests.bench.checkpoints import PROMPT, SECOND_PROMPT, Size, published, questions, write_checkpoint
from tests.bench.contenders import Ours, Reference, Requests, Run, check_identical
from tests.bench.daemons import as_jpeg
from tests.bench.litserve_row import QUEUED, installed, rounds
from tests.bench.machine import circumstances, usable_cores
from tests.bench.rows import Row, add_json_flag, at_least_one, in_turns, median_row, publish
from vision_server.engine.features import DEFAULT_BYTES

TOKENS = 60
LITSERVE = (
    "against the same reference behind LitServe with its dynamic batching (what one would pick instead), "
    f"{QUEUED} queued, base, CPU"
)
WARM_TOKENS = 4
STEP_LIMIT = 3  # times reading the decoder's weights once
_COPIED_BYTES, _COPIES, _ROUNDS = 1 << 30, 10, 5


class Bench:
    """Both sides on one checkpoint, and pictures that were not shown before."""

    def __init__(self, directory: Path, size: Size, tokens: int, device: str = "cpu", pairs: int | None = None) -> None:
        self._directory, self._size, self._device, self._pairs = directory, size, device, pairs
        self.tokens = tokens
        self.dtype = torch.float32 if device == "cpu" else torch.float16
        self.ours = self._load()
        self.reference = Reference(directory, self.ours, self.dtype)
        self._shown = 0

    def _load(self, feature_cache_bytes: int = 0) -> Ours:
        return Ours(self._directory, self._device, str(self.dtype).removeprefix("torch."), feature_cache_bytes)

    def _pictures(self, count: int) -> int:
        """The first of `count` numbers of pictures that were not shown before."""
        self._shown += count
        return self._shown - count

    def captions(self, at_once: int, usual_pairs: int) -> list[tuple[Run, Run]]:
        """(ours, reference) for `at_once` requests, as many times as was asked for, else as is usual."""
        firsts = [self._pictures(at_once) for _ in range(1 + (self._pairs or usual_pairs))]
        warm, *asked = (questions(self._size, first, at_once) for first in firsts)
        self.ours.run(warm, WARM_TOKENS)
        self.reference.run(warm[:1], WARM_TOKENS)
        return self._in_turns(asked, lambda number: self.ours.run(asked[number], self.tokens))

    def second_prompts(self, usual_pairs: int) -> list[tuple[Run, Run]]:
        """The same for a second prompt on a picture that our side has just answered another prompt about."""
        count = self._pairs or usual_pairs
        first = self._pictures(count)
        before = [questions(self._size, first + number, 1) for number in range(count)]
        asked = [questions(self._size, first + number, 1, SECOND_PROMPT) for number in range(count)]
        keeping = self._load(DEFAULT_BYTES)

        def ours(number: int) -> Run:
            keeping.run(before[number], WARM_TOKENS)
            return keeping.run(asked[number], self.tokens)

        return self._in_turns(asked, ours)

    def _in_turns(self, asked: Sequence[Requests], ours: Callable[[int], Run]) -> list[tuple[Run, Run]]:
        found = in_turns(len(asked), ours, lambda number: self.reference.run(asked[number], self.tokens))
        if self.dtype == torch.float32:
            for requests, (said, expected) in zip(asked, found, strict=True):
                check_identical(self.ours, self.reference, requests, self.tokens, said.ids, expected.ids)
        return found

    def behind_litserve(self, usual_pairs: int) -> list[tuple[float, float]]:
        """(ours, reference) in seconds for QUEUED pictures that are posted at once, both behind HTTP."""
        asked = [questions(self._size, self._pictures(QUEUED), QUEUED) for _ in range(self._pairs or usual_pairs)]
        files = [[as_jpeg(image) for image, _ in requests] for requests in asked]
        found = rounds(self._directory, self.tokens, torch.get_num_threads(), files)
        for pictures, (said, expected) in zip(files, found, strict=True):
            shown = [(Image.open(io.BytesIO(picture)).convert("RGB"), PROMPT) for picture in pictures]
            check_identical(self.ours, self.reference, shown, self.tokens, said.texts, expected.texts)
        return [(said.seconds, expected.seconds) for said, expected in found]

    def least_step_ms(self) -> float:
        """Reading once what a step of our decoder reads of its weights, at the speed this device copies memory."""
        text = self.ours.florence.network.text
        weight_bytes = sum(p.nbytes for p in [*text.decoder.parameters(), text.lm_head.weight])
        source = torch.ones(_COPIED_BYTES, dtype=torch.uint8, device=self._device)
        target = torch.empty_like(source)
        times_s = []
        for _ in range(_ROUNDS):
            began_s = time.perf_counter()
            for _ in range(_COPIES):
                target.copy_(source)
            target[-1].item()  # waits for the device
            times_s.append(time.perf_counter() - began_s)
        bytes_per_s = 2 * _COPIES * _COPIED_BYTES / min(times_s)  # a copy reads and writes
        return 1000 * weight_bytes / bytes_per_s


@dataclass(frozen=True)
class Measurement:
    """What is measured together. `measure` returns a row for each of `names`, in their order."""

    names: tuple[str, ...]
    measure: Callable[[Bench], list[Row]]


def cpu_measurements(size: str, tokens: int) -> list[Measurement]:
    decoder = "CPU fp32, decoder alone, 8 requests x 3 beams, ms per token and request"
    measurements = [
        _one(f"CPU fp32, one caption, {size}, {tokens} tokens"),
        _queued(
            8,
            f"CPU fp32, 8 queued captions, {size}, captions per second",
            decoder if size == "base" else f"{decoder}, {size}",
        ),
        _second(f"second prompt on the same picture, {size}, {tokens} tokens"),
    ]
    return [*measurements, _litserve(LITSERVE)] if size == "base" and installed() else measurements


def gpu_measurements(size: str, tokens: int) -> list[Measurement]:
    step = f"GPU fp16, decoder step of one caption, {size}, against {STEP_LIMIT} x reading its weights"
    return [
        _one(f"GPU fp16, one caption, {size}, {tokens} tokens", step),
        _queued(64, f"GPU fp16, 64 queued captions, {size}"),
    ]


def _one(name: str, step_name: str | None = None) -> Measurement:
    def measure(bench: Bench) -> list[Row]:
        runs = bench.captions(1, usual_pairs=7)
        rows = [median_row(name, "s", [(ours.seconds, reference.seconds) for ours, reference in runs])]
        if step_name:
            limit_ms = STEP_LIMIT * bench.least_step_ms()
            rows.append(median_row(step_name, "ms", [(ours.ms_per_token, limit_ms) for ours, _ in runs]))
        return rows

    return Measurement((name, step_name) if step_name else (name,), measure)


def _queued(captions: int, name: str, decoder_name: str | None = None) -> Measurement:
    def measure(bench: Bench) -> list[Row]:
        runs = bench.captions(captions, usual_pairs=3)
        rates = [(captions / ours.seconds, captions / reference.seconds) for ours, reference in runs]
        rows = [median_row(name, "captions/s", rates)]
        if decoder_name:
            tokens = [(ours.ms_per_token, reference.ms_per_token) for ours, reference in runs]
            rows.append(median_row(decoder_name, "ms", tokens))
        return rows

    return Measurement((name, decoder_name) if decoder_name else (name,), measure)


def _second(name: str) -> Measurement:
    def measure(bench: Bench) -> list[Row]:
        runs = bench.second_prompts(usual_pairs=5)
        return [median_row(name, "s", [(ours.seconds, reference.seconds) for ours, reference in runs])]

    return Measurement((name,), measure)


def _litserve(name: str) -> Measurement:
    def measure(bench: Bench) -> list[Row]:
        runs = bench.behind_litserve(usual_pairs=3)
        return [median_row(name, "captions/s", [(QUEUED / ours, QUEUED / reference) for ours, reference in runs])]

    return Measurement((name,), measure)


def chosen(measurements: Sequence[Measurement], only: Sequence[str]) -> list[Measurement]:
    """Those with a row whose name begins as one of `only`; all without it."""
    return [m for m in measurements if not only or any(name.startswith(tuple(only)) for name in m.names)]


def measure_all(bench: Bench, measurements: Sequence[Measurement], only: Sequence[str]) -> list[Row]:
    rows = [row for measurement in measurements for row in measurement.measure(bench)]
    return [row for row in rows if not only or row.name.startswith(tuple(only))]


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
    main()
