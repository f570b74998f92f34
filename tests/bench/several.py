"""Captions through HAProxy from many clients, while one of three machines is killed, one drained and restarted, and one
asleep; with our client, which tries again, and with one that does not. `python -m tests.bench.several --help`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.daemons import end_orderly
from tests.bench.machine import circumstances
from tests.service.balanced import KEY, ROOT, Machine, Proxy, machines, proxy, until
from vision_server.client.server import ClientError, Refused, Server

Question = tuple[bytes, str]
PATIENCE_S = 240.0
_BEYOND_THE_BUFFER = 900_000  # bytes, as base64 more than HAProxy's buffer of 1 MiB
WORDS = ("--model", "demo", "--device", "cpu", "--dtype", "float32", "--leave-notice", "4", "--shutdown-grace", "120")


def questions(padding: int = 0) -> list[Question]:
    """Each bundled picture with two prompts; `padding` bytes follow the picture's end in its file."""
    pictures = sorted((ROOT / "vision_server" / "samples").glob("scene-*.*"))
    return [(picture.read_bytes() + bytes(padding), prompt) for picture in pictures for prompt in ("CAPTION", "OD")]


class Drive:
    """`captions` requests from `clients` threads, the questions in turn; `at` says what is done when so many are
    answered or have failed. Its figures are there when `run` returns."""

    def __init__(self, url: str, asked: Sequence[Question], truth: Sequence[Any], retry_for_s: float) -> None:
        self._asked, self._truth = asked, truth
        self._server = Server(url, KEY, retry_for_s=retry_for_s, sleep=self._pause)
        self._lock = threading.Lock()
        self.failures: Counter[str] = Counter()
        self.wrong = self.answered = self.pauses = 0
        self.latencies_s: list[float] = []
        self.seconds = 0.0

    def run(self, captions: int, clients: int, at: Mapping[int, Callable[[], None]] | None = None) -> None:
        self._at = dict(at or {})
        began_s = time.monotonic()
        with ThreadPoolExecutor(clients) as pool, ThreadPoolExecutor() as events:
            self._events = events
            happening = list(pool.map(self._one, range(captions)))
        self.seconds = time.monotonic() - began_s
        for event in filter(None, happening):
            event.result()  # what went wrong there

    def _pause(self, seconds: float) -> None:
        with self._lock:
            self.pauses += 1
        time.sleep(seconds)

    def _one(self, number: int) -> Any:
        picture, prompt = self._asked[number % len(self._asked)]
        began_s, answer, failure = time.monotonic(), None, ""
        try:
            answer = self._server.caption(picture, prompt)
        except ClientError as error:
            failure = str(error.status) if isinstance(error, Refused) else type(error).__name__
        with self._lock:
            if failure:
                self.failures[failure] += 1
            else:
                self.answered += 1
                self.wrong += answer != self._truth[number % len(self._asked)]
                self.latencies_s.append(time.monotonic() - began_s)
            event = self._at.pop(self.answered + sum(self.failures.values()), None)
        return self._events.submit(event) if event else None

    def figures(self) -> dict[str, Any]:
        ordered = sorted(self.latencies_s)
        return {
            "captions": self.answered + sum(self.failures.values()),
            "answered": self.answered,
            "wrong": self.wrong,
            "lost": sum(self.failures.values()),
            "lost_as": dict(self.failures),
            "tried_again": self.pauses,
            "seconds": round(self.seconds, 1),
            "captions_per_s": round(self.answered / self.seconds, 2),
            "p50_s": round(median(ordered), 2),
            "p99_s": round(ordered[int(len(ordered) * 0.99) - 1], 2),
        }


def restart(through: Proxy, machine: Machine) -> None:
    """Drain it at the proxy, end it in good order, start it, and have it take part again."""
    through.say(f"set server machines/{machine.name} state drain")
    assert machine.leave() == 0, "it did not leave in good order"
    machine.start()
    through.say(f"set server machines/{machine.name} state ready")


def trouble(
    captions: int, clients: int, retry_for_s: float, *, namespaces: bool = False, padding: int = 0
) -> dict[str, Any]:
    """Machine c is asleep at the beginning, a is killed after a fifth of the captions, b restarted after two fifths."""
    asked = questions(padding)
    with machines("abc", *WORDS, namespaces=namespaces) as (a, b, c), tempfile.TemporaryDirectory() as folder:
        for machine in (a, b, c):
            machine.start()
        truth = [Server(a.url, KEY).caption(*question) for question in asked]
        Server(b.url, KEY).caption(*asked[0])
        with proxy((a, b, c), Path(folder)) as through:
            for name in "abc":
                until(lambda name=name: through.status(name).startswith("UP"), f"{name} is up")  # type: ignore[misc]
            drive = Drive(through.url, asked, truth, retry_for_s)
            drive.run(captions, clients, {captions // 5: a.kill, captions * 2 // 5: lambda: restart(through, b)})
        loads = {machine.name: Server(machine.url, KEY).call("/status")["loads"] for machine in (b, c)}
    return {**drive.figures(), "loads_of_the_restarted": loads["b"], "loads_of_the_one_asleep": loads["c"]}


def throughput(captions: int, clients: int, names: str) -> dict[str, Any]:
    """So many awake machines, nothing happens to them."""
    asked = questions()
    with machines(names, *WORDS) as several, tempfile.TemporaryDirectory() as folder:
        for machine in several:
            machine.start()
            truth = [Server(machine.url, KEY).caption(*question) for question in asked]
        with proxy(several, Path(folder)) as through:
            for name in names:
                until(lambda name=name: through.status(name).startswith("UP"), f"{name} is up")  # type: ignore[misc]
            drive = Drive(through.url, asked, truth, 0.0)
            drive.run(captions, clients)
    return drive.figures()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=500)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--namespaces", action="store_true", help="each machine in a network of its own; needs root")
    parser.add_argument("--json", type=Path, help="where the figures go")
    words = parser.parse_args()
    end_orderly()
    found = {
        **circumstances(f"python -m tests.bench.several {' '.join(sys.argv[1:])}", "torch"),
        "clients": words.clients,
        "networks_of_their_own": words.namespaces,
        "with_retries": trouble(words.captions, words.clients, PATIENCE_S, namespaces=words.namespaces),
        "without_retries": trouble(words.captions, words.clients, 0.0, namespaces=words.namespaces),
        "without_retries_beyond_the_buffer": trouble(
            words.captions, words.clients, 0.0, namespaces=words.namespaces, padding=_BEYOND_THE_BUFFER
        ),
        "with_retries_beyond_the_buffer": trouble(
            words.captions, words.clients, PATIENCE_S, namespaces=words.namespaces, padding=_BEYOND_THE_BUFFER
        ),
        "one_machine": throughput(words.captions // 2, words.clients, "a"),
        "three_machines": throughput(words.captions // 2, words.clients, "abc"),
    }
    text = json.dumps(found, indent=2)
    print(text)  # noqa: T201  a script's result
    if words.json:
        words.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
