"""What the soak does to a daemon beside asking it: signals to the worker, loads and unloads, scrapes. And what it sees
of it: the log, memory, threads, open files. Not a benchmark."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

_SIGNALS = {"SIGKILL": 5, "SIGSEGV": 3, "SIGSTOP": 2}
_LOADING = {"importing": 2, "loading": 1}
_BEFORE_WEIGHTS = ("starting", "import")
_LOOKED_AT = ("/status", "/health", "/ready", "/prompts", "/model", "/metrics")
_TOLD_WITHIN_S, _DONE_WITHIN_S = 60.0, 300.0  # GET looks; POST may have a queue to finish, or a model to load


@dataclass(frozen=True)
class Death:
    """One that nobody asked for, as the log tells it. `held` has the ids of the requests the worker held."""

    pid: int
    cause: str
    held: tuple[str, ...]


class Log:
    """The daemon's log, line by line, as JSON."""

    def __init__(self) -> None:
        self.deaths: list[Death] = []
        self.releases: Counter[str] = Counter()
        self.answered_ids: Counter[str] = Counter()  # of every answer to POST /process_image
        self.exceptions: list[str] = []
        self._ended_pid = 0

    def read(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.take(line)

    def take(self, line: str) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            return
        message = str(entry.get("message"))
        if found := re.match(r"worker (\d+) has ended", message):
            self._ended_pid = int(found[1])
        elif found := re.match(r"the worker of \S+ died \((.+?)\) (?:while loading|holding (.+))", message):
            held = () if found[2] in (None, "nothing") else tuple(found[2].split(", "))
            self.deaths.append(Death(self._ended_pid, found[1], held))
        elif found := re.match(r"the worker is released: (\w+)", message):
            self.releases[found[1]] += 1
        elif re.match(r"(?:answered|failed) POST /process_image", message):
            self.answered_ids[entry.get("request_id", "")] += 1
        if "exception" in entry:
            self.exceptions.append(f"{message}: {entry['exception']}")


class Api:
    """The daemon's calls that are no captions. Every one must be answered, by a status that is documented for it."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.answers: Counter[str] = Counter()
        self.faults: list[str] = []
        self._session = session
        self._url = url

    async def call(self, method: str, path: str, *statuses: int) -> Any:
        """The answer's JSON, None where it has another form or never came."""
        try:
            async with self._session.request(method, self._url + path, timeout=_WITHIN[method]) as response:
                body = await response.read()
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            self.faults.append(f"{method} {path}: {error!r}")
            return None
        self.answers[f"{method} {path} {response.status}"] += 1
        if response.status not in (200, *statuses):
            self.faults.append(f"{method} {path}: {response.status} {body[:200]!r}")
        return json.loads(body) if response.content_type == "application/json" else None

    async def status(self) -> dict[str, Any]:
        return await self.call("GET", "/status") or {}

    async def until_gone(self, within_s: float) -> dict[str, Any]:
        """Wait for the time without a worker; the last status."""
        by_s = time.monotonic() + within_s
        while True:
            now = await self.status()
            if now.get("state") in ("unloaded", "failed") or time.monotonic() > by_s:
                return now
            await asyncio.sleep(0.1)

    async def scrape(self) -> None:
        """As monitoring does, every second, for ever."""
        while True:
            for path in _LOOKED_AT:
                await self.call("GET", path, *((503,) if path == "/ready" else ()))
            await asyncio.sleep(1)

    async def load_and_unload(self, rng: random.Random, stormy: Callable[[], bool], every_s: float) -> None:
        """As an impatient administrator does, for ever."""
        while True:
            await asyncio.sleep(every_s * rng.uniform(0.5, 1.5))
            if stormy():
                path, status = rng.choice((("/load", 503), ("/unload", 409), ("/unload?force=1", 200)))
                await self.call("POST", path, status)


_WITHIN = {"GET": aiohttp.ClientTimeout(_TOLD_WITHIN_S), "POST": aiohttp.ClientTimeout(_DONE_WITHIN_S)}


class Killer:
    """Signals to the worker, each process at most once, at moments that are drawn by chance."""

    def __init__(self, api: Api, daemon_pid: int, rng: random.Random) -> None:
        self.signals: dict[int, str] = {}  # by the worker's pid
        self.strikes: Counter[str] = Counter()  # signal and what the worker was at
        self._api = api
        self._daemon_pid = daemon_pid
        self._rng = rng

    async def run(self, stormy: Callable[[], bool], every_s: float) -> None:
        """For ever, while it is `stormy`; some strikes come in a row, while what the last one left is being mended."""
        while True:
            await asyncio.sleep(every_s * self._rng.uniform(0.5, 1.5))
            if not stormy():
                continue
            row = [(self._drawn(_SIGNALS), "generating")]
            if self._rng.random() < 0.1:  # whoever the worker holds alone then is to blame
                row = [("SIGSEGV", "generating")] * 3
            elif self._rng.random() < 0.5:
                row += [(self._drawn(_SIGNALS), self._drawn(_LOADING))]
            for name, moment in row:
                await self._strike(name, moment)

    def _drawn(self, weights: dict[str, int]) -> str:
        return self._rng.choices(list(weights), list(weights.values()))[0]

    async def _strike(self, name: str, moment: str) -> None:
        by_s = time.monotonic() + 15
        while (seen := self._seen(await self._api.status()))[1] != moment:
            if time.monotonic() > by_s:
                return
            await asyncio.sleep(0.01 if seen[1] == "importing" else 0.05)
        if moment != "loading":  # which is too short to wait
            await asyncio.sleep(self._rng.random() * (1.0 if moment == "importing" else 0.2))
            seen = self._seen(await self._api.status())
        pid, at = seen
        with contextlib.suppress(psutil.Error):  # it may have ended by itself
            if pid and psutil.Process(pid).ppid() == self._daemon_pid:
                os.kill(pid, getattr(signal, name))
                self.signals[pid] = name
                self.strikes[f"{name} {at}"] += 1

    def _seen(self, status: dict[str, Any]) -> tuple[int | None, str]:
        """The worker, if it was not struck yet, and what it is at."""
        pid, state = status.get("worker_pid"), status.get("state")
        if pid is None or pid in self.signals:
            return None, "gone"
        if state == "loading":
            return pid, "importing" if status["load_phase"] in _BEFORE_WEIGHTS else "loading"
        return pid, "generating" if state == "ready" and status["in_flight"] else str(state)


@dataclass(frozen=True)
class Sample:
    """The daemon at a moment: bytes of memory, open files and sockets, threads."""

    at_s: float
    rss: int
    files: int
    threads: int


class Sampler:
    """Looks at daemon and worker twice a second. `lives` has for every worker the time it was first seen ready, and
    (seconds since then, bytes) as often as it was seen at work."""

    def __init__(self, api: Api, daemon_pid: int) -> None:
        self.daemon: list[Sample] = []
        self.lives: dict[int, list[tuple[float, int]]] = defaultdict(list)
        self.born_s: dict[int, float] = {}
        self._api = api
        self._process = psutil.Process(daemon_pid)

    async def run(self) -> None:
        while True:
            self.look()
            self.look_at_worker(await self._api.status())
            await asyncio.sleep(0.5)

    def look_at_worker(self, status: dict[str, Any]) -> None:
        pid = status.get("worker_pid")
        if pid and status["state"] == "ready" and status["in_flight"]:
            now = time.monotonic()
            with contextlib.suppress(psutil.Error):
                worker = psutil.Process(pid)
                if worker.status() != psutil.STATUS_STOPPED:  # one that stands still has not ceased to grow
                    age_s = now - self.born_s.setdefault(pid, now)
                    self.lives[pid].append((age_s, worker.memory_info().rss))

    def look(self) -> Sample:
        process = self._process
        with process.oneshot():
            sample = Sample(time.monotonic(), process.memory_info().rss, process.num_fds(), process.num_threads())
        self.daemon.append(sample)
        return sample

    def open_files(self) -> list[str]:
        """What the daemon has open: paths, and the kind of what has none. Empty where the system does not tell."""
        found = []
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{self._process.pid}/fd").iterdir():
                found.append(str(link.readlink()).partition(":")[0])
        return sorted(found)
