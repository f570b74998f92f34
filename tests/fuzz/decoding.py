"""`python -m tests.fuzz.decoding COUNT SEED [--leak BYTES]`: the worker's decoder over the corpus, in a process alone.

Prints one JSON object: how each file came out, the texts of the errors, the slowest, and memory in bytes after a first
fifth of the files and at the end, with `measured` files between. With --leak that much is kept of every file, to show
that the figures would tell.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import re
import sys
import time
from pathlib import Path

import psutil

from tests.fuzz.corpus import corpus
from vision_server.errors import VisionError
from vision_server.worker.decode import decode

MAX_PIXELS = 4_000_000


def peak_bytes(unknown: int) -> int:
    """The most this process ever held; `unknown` where the system does not tell as Linux does.

    Not getrusage's figure, which begins with what the parent held.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), unknown)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("--leak", type=int, default=0)
    arguments = parser.parse_args()
    outcomes: collections.Counter[str] = collections.Counter()
    texts: set[str] = set()
    strange: list[str] = []
    kept: list[bytes] = []
    slowest_s, slowest = 0.0, ""
    process, rss_before = psutil.Process(), 0
    for number, (name, data) in enumerate(corpus(arguments.count, arguments.seed)):
        began_s = time.process_time()
        try:
            decoded = decode(data, MAX_PIXELS, (768, 768))
            outcomes["picture"] += 1
            if decoded.image.mode != "RGB" or decoded.size[0] * decoded.size[1] > MAX_PIXELS:
                strange.append(f"{name}: {decoded.image.mode} {decoded.size}")
        except VisionError as error:
            outcomes[error.code] += 1
            texts.add(re.sub(r"\d[\d,]*", "N", str(error)))
        except BaseException as error:
            strange.append(f"{name}: {type(error).__name__} {error}")
        took_s = time.process_time() - began_s
        if took_s > slowest_s:
            slowest_s, slowest = took_s, name
        if arguments.leak:
            kept.append(bytes(arguments.leak).replace(b"\0", b"\1"))
        if number == arguments.count // 5:
            gc.collect()
            rss_before = process.memory_info().rss
    gc.collect()
    json.dump(
        {
            "outcomes": outcomes,
            "texts": sorted(texts),
            "strange": strange,
            "slowest_s": slowest_s,
            "slowest": slowest,
            "measured": arguments.count - 1 - arguments.count // 5,
            "rss_before": rss_before,
            "rss_after": process.memory_info().rss,
            "rss_peak": peak_bytes(process.memory_info().rss),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
