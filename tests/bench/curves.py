"""How a daemon under load behaves: captions a second and memory against how many are asked at once, and how long an
answer takes when requests come at random.

`python tests/bench/curves.py`. A daemon with random weights of base's size is asked by HTTP. Answers have a fixed
number of tokens, no picture comes twice, the feature cache is off. For the second, arrivals are a Poisson process,
drawn before the first request, at a half and at four fifths of the most captions a second that were found. A request
comes whether or not the earlier ones are answered, and its latency counts from the time at which it was to come.
README.md says more.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import accumulate, count
from pathlib import Path
from typing import Any

from tests.bench.checkpoints import Size, published, questions, write_checkpoint
from tests.bench.curve_plot import draw
from tests.bench.daemons import as_jpeg, asked_at_once, end_orderly, running, timed
from tests.bench.machine import circumstances
from tests.bench.rows import at_least_one, notes, percentile
from tests.daemon_process import Daemon

DEPTHS = (1, 2, 4, 8, 16, 32)
SHARES = (Fraction(1, 2), Fraction(4, 5))  # of the capacity
TOKENS, CAPTIONS, ARRIVALS, SEED = 20, 4, 40, 0
LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Depth:
    """`queued` captions asked at once, over and over: the rate, and the most memory that the worker held meanwhile."""

    queued: int
    captions_per_s: float
    worker_mb: float
    gpu_mb: float  # 0 without a GPU


@dataclass(frozen=True)
class Load:
    """Requests that came at random, `per_s` a second on average; `latencies_s` in the order of their arrival."""

    share: str
    per_s: float
    latencies_s: list[float]

    @property
    def p50_s(self) -> float:
        return percentile(self.latencies_s, 50)

    @property
    def p99_s(self) -> float:
        return percentile(self.latencies_s, 99)


class Asker:
    """Asks a daemon for captions of pictures that it has not seen."""

    def __init__(self, daemon: Daemon, size: Size, tokens: int) -> None:
        self._daemon, self._path = daemon, f"/process_image?max_new_tokens={tokens}"
        self._pictures = (as_jpeg(questions(size, number, 1)[0][0]) for number in count())

    def at_depth(self, queued: int, captions: int) -> Depth:
        """`queued` at once, and again until there are at least so many captions."""
        rounds, seconds = math.ceil(captions / queued), 0.0
        with self._watched() as most_bytes:
            for _ in range(rounds):
                pictures = [next(self._pictures) for _ in range(queued)]
                seconds += asked_at_once(self._daemon, self._path, pictures)[0]
        worker_mb, gpu_mb = (value / 1e6 for value in most_bytes)
        return Depth(queued, rounds * queued / seconds, worker_mb, gpu_mb)

    def under_load(self, share: Fraction, capacity_per_s: float, requests: int, seed: int) -> Load:
        per_s = float(share) * capacity_per_s
        pictures = [next(self._pictures) for _ in range(requests)]

        def ask(number: int) -> None:
            timed(self._daemon, self._path, pictures[number])

        return Load(str(share), per_s, open_loop(ask, arrivals(per_s, requests, seed)))

    @contextmanager
    def _watched(self) -> Iterator[list[int]]:
        """The most bytes of main and of GPU memory that the worker was seen to hold, once the context has ended."""
        most, enough = [0, 0], threading.Event()

        def look() -> None:
            status = timed(self._daemon, "/status")[1]
            now = status["worker_rss_bytes"], status["worker_device_bytes"]
            most[:] = [max(before, value or 0) for before, value in zip(most, now, strict=True)]

        def watch() -> None:
            while not enough.wait(LOOK_EVERY_S):
                look()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield most
        finally:
            enough.set()
            thread.join()
        look()


def arrivals(per_s: float, requests: int, seed: int) -> list[float]:
    """When each comes, in seconds from the beginning: a Poisson process, the same for the same seed."""
    draws = random.Random(seed)
    return list(accumulate(draws.expovariate(per_s) for _ in range(requests)))


def open_loop(ask: Callable[[int], object], arrivals_s: Sequence[float]) -> list[float]:
    """Call `ask` with the number of each arrival at its time, answered or not what came before; seconds from that time
    to the end of the call."""
    began_s, pause = time.perf_counter(), threading.Event()  # never set: a wait that ends in time

    def latency_s(number: int) -> float:
        ask(number)
        return time.perf_counter() - began_s - arrivals_s[number]

    with ThreadPoolExecutor(len(arrivals_s)) as pool:
        calls = []
        for number, at_s in enumerate(arrivals_s):
            pause.wait(max(0.0, began_s + at_s - time.perf_counter()))
            calls.append(pool.submit(latency_s, number))
        return [call.result() for call in calls]


def tables(depths: Sequence[Depth], loads: Sequence[Load]) -> str:
    """Both in Markdown."""
    lines = ["| asked at once | captions/s | worker's memory, MB | GPU memory, MB |", "|---|---|---|---|"]
    for one in depths:
        gpu = f"{one.gpu_mb:.0f}" if one.gpu_mb else "-"
        lines.append(f"| {one.queued} | {one.captions_per_s:.3g} | {one.worker_mb:.0f} | {gpu} |")
    lines += ["", "| load, of capacity | requests/s | requests | p50, s | p99, s |", "|---|---|---|---|---|"]
    for load in loads:
        lines.append(
            f"| {load.share} | {load.per_s:.3g} | {len(load.latencies_s)} | {load.p50_s:.3g} | {load.p99_s:.3g} |"
        )
    return "\n".join(lines) + "\n"


def publish(depths: Sequence[Depth], loads: Sequence[Load], about: dict[str, Any], path: Path | None) -> None:
    """Print the tables; with a `path`, write the figures there, beside it the tables as .md and the plot as .svg."""
    sys.stdout.write(tables(depths, loads))
    if path is None:
        return
    told = [{**asdict(load), "p50_s": load.p50_s, "p99_s": load.p99_s} for load in loads]
    values = {**about, "depths": [asdict(one) for one in depths], "loads": told}
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    text = f"{notes(about)}\n{tables(depths, loads)}\n![captions a second, memory and latency]({path.stem}.svg)\n"
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    draw(depths, loads, path.with_suffix(".svg"))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Throughput and memory against queue depth, latency under load.")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--dtype", default="auto", help="as the daemon's setting")
    parser.add_argument("--tokens", type=at_least_one, default=TOKENS, help="tokens of an answer", metavar="N")
    parser.add_argument("--captions", type=at_least_one, default=CAPTIONS, help="at least, at every depth", metavar="N")
    parser.add_argument("--arrivals", type=at_least_one, default=ARRIVALS, help="requests at every load", metavar="N")
    parser.add_argument("--seed", type=int, default=SEED, help="of the arrivals", metavar="N")
    parser.add_argument("--json", type=Path, help="write the figures there, beside it .md and .svg", metavar="FILE")
    args = parser.parse_args(argv)
    size = published("base")
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), size)
        flags = ["--model", folder, "--device", args.device, "--dtype", args.dtype]
        patience = ["--idle-timeout", "-1", "--request-timeout", "3600", "--max-queue", "4096"]
        with running(*flags, "--feature-cache", "0", *patience) as daemon:
            asker = Asker(daemon, size, args.tokens)
            asker.at_depth(1, 1)  # loads the model
            depths = [asker.at_depth(queued, args.captions) for queued in DEPTHS]
            capacity_per_s = max(one.captions_per_s for one in depths)
            loads = [asker.under_load(share, capacity_per_s, args.arrivals, args.seed) for share in SHARES]
            status = timed(daemon, "/status")[1]
    words = sys.argv[1:] if argv is None else argv
    about = circumstances(shlex.join(["python", "tests/bench/curves.py", *words]), "torch")
    model = {"model": f"{size.name}, random weights", "device": status["device"], "dtype": status["dtype"]}
    publish(depths, loads, {**about, **model, "tokens": args.tokens, "seed": args.seed}, args.json)


if __name__ == "__main__":
    end_orderly()
    main()
