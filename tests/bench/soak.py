"""The soak: hours of mixed traffic, worker kills and idle releases against a real daemon with the embedded checkpoint.

`python -m tests.bench.soak --minutes 35`. A quiet daemon is asked every question once, one at a time. Then many clients
ask another one the same in every form, and among that send wrong requests, leave early, and break off in mid-body,
while the worker is killed, stopped and crashed, loaded and unloaded. Every good request must get the quiet answer.
With `--calm` the clients do all that, but nobody touches the worker: one life, whose growth must end.
README.md says what is counted. `--leak` makes the daemon or its worker leak, which must be found: exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.bench.daemons import ROOT, end_orderly
from tests.bench.machine import circumstances
from tests.bench.rows import at_least_one
from tests.bench.soak_clients import Clients
from tests.bench.soak_plan import MAX_BODY_MB, Asked, plain, questions
from tests.bench.soak_report import Soak, report, table, write
from tests.bench.soak_trouble import Api, Killer, Log, Sample, Sampler
from tests.daemon_process import ENVIRONMENT, Daemon

CLIENTS = 24
IDLE_TIMEOUT_S = 1.5
STORMY_SHARE = 0.7  # of each cycle; the rest is calm, so that some workers live long
KILL_EVERY_S, UNLOAD_EVERY_S, PAUSE_EVERY_S = 6.0, 20.0, 45.0
_SHORTEST_CYCLE_S, _LONGEST_CYCLE_S = 40.0, 700.0
_PAUSE_WITHIN_S = 30.0
# What the slowest machine that is expected does in a second: calls of the daemon, and requests of the worker.
_SLOW_CALLS_PER_S, _SLOW_REQUESTS_PER_S = 10, 2
_LEAKED_MIB = {"daemon": 75, "worker": 48}  # in the soak, and in the second half of a long life
_LONG_LIFE_SHARE = 0.3  # of a cycle
_SETTINGS: dict[str, Any] = {
    "--model": "demo",
    "--device": "cpu",
    "--dtype": "float32",
    "--port": "0",
    "--idle-timeout": IDLE_TIMEOUT_S,
    "--max-queue": 12,
    "--max-body": MAX_BODY_MB,
    "--feature-cache": 2,  # full at once, so that it is no growth
    "--body-timeout": 6,
    "--load-stall-timeout": 20,
    "--step-stall-timeout": 6,
    "--log-format": "json",
}


@contextlib.contextmanager
def running(*module: str, calm: bool = False) -> Iterator[tuple[Daemon, Log]]:
    """A daemon of `python -m module` and its log, which is whole once the block has ended the daemon.

    If `calm`, its worker is not released when it is idle either.
    """
    words = [str(word) for flag in (_SETTINGS | ({"--idle-timeout": -1} if calm else {})).items() for word in flag]
    command = [sys.executable, "-m", *module, *words]
    log = Log()
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stderr is not None
        reader = threading.Thread(target=log.read, args=(process.stderr,), daemon=True)
        try:
            daemon = Daemon(process)
            reader.start()
            yield daemon, log
        finally:
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):  # a stopped one would stay
                    child.kill()
            process.kill()
            if reader.ident is not None:
                reader.join()


async def quiet_answers(url: str, asked: Sequence[Asked]) -> list[tuple[Asked, Any]]:
    """Each question with its answer, asked one at a time. Raises AssertionError unless all are answered."""
    known = []
    async with aiohttp.ClientSession() as session:
        for one in asked:
            sent = plain(one)
            async with session.post(url + sent.path, params=sent.params, data=sent.body()) as response:
                body = await response.json()
                assert response.status == 200, body
                known.append((one, body["result"]))
    return known


@dataclass(frozen=True)
class Weather:
    """Storm and calm in turn, from `began_s` on."""

    began_s: float
    cycle_s: float

    @property
    def stormy_for_s(self) -> float:
        """How long the storm will last; less than 0 while it is calm."""
        return STORMY_SHARE * self.cycle_s - (time.monotonic() - self.began_s) % self.cycle_s

    @classmethod
    def cycle_of(cls, seconds: float) -> float:
        """How long a cycle of a soak of so many seconds takes."""
        return min(_LONGEST_CYCLE_S, max(seconds / 3, min(seconds, _SHORTEST_CYCLE_S)))

    def stormy(self) -> bool:
        return self.stormy_for_s > 0

    async def pause(self, clients: Clients, api: Api, log: Log) -> None:
        """For ever: now and then nobody asks until the worker is gone; where a storm ends, gone for its idleness."""
        while True:
            await asyncio.sleep(max(0.0, min(self.stormy_for_s, PAUSE_EVERY_S)))
            over = not self.stormy()  # which it may be again when the last one is answered
            clients.pause.clear()
            await api.until_gone(_PAUSE_WITHIN_S)
            if over:
                await _idle_release(api, log)
            clients.pause.set()
            if not self.stormy():
                await asyncio.sleep(self.stormy_for_s + (1 - STORMY_SHARE) * self.cycle_s)


async def _idle_release(api: Api, log: Log) -> None:
    """Load, and wait until that worker was idle for long enough; again where what is left of the storm took it."""
    before = log.releases["idle"]
    for _ in range(3):
        await api.call("POST", "/load", 503)
        await api.until_gone(_PAUSE_WITHIN_S)
        if log.releases["idle"] > before:
            return


async def soak(
    daemon: Daemon, log: Log, known: Sequence[tuple[Asked, Any]], minutes: float, seed: int, calm: bool
) -> tuple[Clients, Api, Killer, Sampler, Sample, Sample, dict[str, Any]]:
    """Everything at once for so many minutes; then everything is answered, and the worker unloaded. If `calm`, nothing
    is done to the worker before."""
    pid, seconds = daemon.process.pid, 60 * minutes
    forever = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as monitoring:
        api = Api(monitoring, daemon.url)
        sampler, rng = Sampler(api, pid), random.Random(f"trouble {seed}")
        killer = Killer(api, pid, rng)
        # Who keeps a connection for longer than the server does may send a request into its end.
        kept = aiohttp.TCPConnector(limit=0, keepalive_timeout=_SETTINGS["--body-timeout"] / 3)
        async with aiohttp.ClientSession(connector=kept, timeout=forever) as asking:
            clients = Clients(asking, daemon.url, known, seed)
            await clients.good("first", plain(known[0][0]), known[0][1])
            before = await _at_rest(api, sampler)
            weather = Weather(time.monotonic(), Weather.cycle_of(seconds))
            beside = [asyncio.create_task(one) for one in (sampler.run(), api.scrape())]
            if not calm:
                trouble = (
                    api.load_and_unload(rng, weather.stormy, UNLOAD_EVERY_S),
                    killer.run(weather.stormy, KILL_EVERY_S),
                    weather.pause(clients, api, log),
                )
                beside += [asyncio.create_task(one) for one in trouble]
            await asyncio.gather(*(clients.run(number, weather.began_s + seconds) for number in range(CLIENTS)))
            for task in beside:
                task.cancel()
            ends = await asyncio.gather(*beside, return_exceptions=True)
            if not calm and not log.releases["idle"]:  # a short soak may be over before its first pause
                await _idle_release(api, log)
            api.faults += [f"of the soak: {end!r}" for end in ends if not isinstance(end, asyncio.CancelledError)]
        after = await _at_rest(api, sampler, before.files)
        if after.files > before.files:
            sys.stderr.write(f"open at the end: {sampler.open_files()}\n")
        return clients, api, killer, sampler, before, after, await api.status()


async def _at_rest(api: Api, sampler: Sampler, open_before: int = 0) -> Sample:
    """The daemon without a worker, once it has closed what clients left: no more is open than before, or 15 s are over.

    Until then aiohttp may read on what a client sends that it has answered, and a worker that was started while a body
    came, and is not needed, may still be there.
    """
    await api.call("POST", "/unload?force=1")
    await api.until_gone(_PAUSE_WITHIN_S)
    by_s, seen = time.monotonic() + (15 if open_before else 1), sampler.look()
    while seen.files > open_before and time.monotonic() < by_s:
        await asyncio.sleep(0.1)
        seen = min(seen, sampler.look(), key=lambda sample: sample.files)
    return seen


def leak_kib(where: str, minutes: float, calm: bool) -> int:
    """How much of each request makes a leak that a soak of this length must find, however slow the machine is."""
    seconds = 60 * minutes
    if where == "daemon":
        requests = _SLOW_CALLS_PER_S * seconds
    else:
        requests = _SLOW_REQUESTS_PER_S * (seconds if calm else _LONG_LIFE_SHARE * Weather.cycle_of(seconds)) / 2
    return math.ceil(_LEAKED_MIB[where] * 1024 / requests)


def run(
    minutes: float, asked: Sequence[Asked], seed: int, leak: Sequence[str] = (), *, calm: bool = False
) -> dict[str, Any]:
    """A soak, and what it has found. `leak` is where, and how many KiB of each request."""
    with running("vision_server") as (quiet, _):
        known = asyncio.run(quiet_answers(quiet.url, asked))
    with running(*(["tests.bench.soak_leaky", *leak] if leak else ["vision_server"]), calm=calm) as (daemon, log):
        began_s = time.monotonic()
        clients, api, killer, sampler, before, after, last = asyncio.run(soak(daemon, log, known, minutes, seed, calm))
        took_min = (time.monotonic() - began_s) / 60
        family = psutil.Process(daemon.process.pid).children(recursive=True)
        daemon.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.process.wait(60)
        left = psutil.wait_procs(family, 5)[1]
    return report(
        Soak(took_min, clients.tally, api, killer, sampler, log, before, after, last, daemon.process.poll(), len(left))
    )


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Mixed traffic and trouble against a real daemon.")
    parser.add_argument("--minutes", type=float, default=35.0)
    parser.add_argument("--questions", type=at_least_one, default=450, help="different ones", metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calm", action="store_true", help="leave the worker alone, so that one lives all the time")
    parser.add_argument("--leak", choices=tuple(_LEAKED_MIB), help="leak there on purpose")
    parser.add_argument("--leak-kib", type=at_least_one, help="of each request (by the length)", metavar="N")
    parser.add_argument("--json", type=Path, help="write the figures there, and as .md beside it", metavar="FILE")
    args = parser.parse_args(words)
    leak = [args.leak, str(args.leak_kib or leak_kib(args.leak, args.minutes, args.calm))] if args.leak else []
    found = run(args.minutes, questions(args.questions, args.seed), args.seed, leak, calm=args.calm)
    sys.stdout.write(table(found))
    if found["broken"]:
        sys.stdout.write(f"BROKEN: {'; '.join(found['broken'])}\n{json.dumps(found['examples'], indent=2)}\n")
    if args.json:
        given = f" --questions {args.questions} --seed {args.seed}" + " --calm" * args.calm
        given += "".join(f" --leak {where}" for where in leak[:1])
        about = circumstances(f"python -m tests.bench.soak --minutes {args.minutes:g}{given}", "torch", "aiohttp")
        write(found, about, args.json)
    return 1 if found["broken"] else 0


if __name__ == "__main__":
    end_orderly()
    sys.exit(main())
