"""What a soak has found: the figures, and what of them must not be. Not a benchmark."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.rows import notes, percentile
from tests.bench.soak_clients import Tally
from tests.bench.soak_memory import MIB, Series, Slope, binned, slope
from tests.bench.soak_trouble import Api, Death, Killer, Log, Sample, Sampler

WARM_UP_SHARE = 0.2  # of the soak, in which the daemon may grow
LIKE_AGE_S = 4.0  # at which workers are compared with each other
LONG_LIFE_SHARE = 0.4  # of the longest life: what counts as long, too; its first half is warming up
DAEMON_MAY_GROW_MIB, WORKER_MAY_GROW_MIB = 4.0, 16.0  # over the time that a slope spans
MORE_THREADS = 8  # of the pool that asks the device's library; it starts them when needed, and keeps them
ALONE_DEATHS, OUTSIDE_DEATHS = 2, 5  # after which a request is to blame
_EXAMPLES = 5


@dataclass(frozen=True)
class Soak:
    """What is there when a soak is over. `before` and `after`: the daemon without worker and clients; `last` is its
    last status; `left` are the processes that outlived it."""

    minutes: float
    tally: Tally
    api: Api
    killer: Killer
    sampler: Sampler
    log: Log
    before: Sample
    after: Sample
    last: dict[str, Any]
    exit_code: int | None
    left: int


def report(soak: Soak) -> dict[str, Any]:
    """Every figure by its name; under `broken` what must not be, in words, and `examples` of it."""
    tally, log, signals = soak.tally, soak.log, soak.killer.signals
    excused = [name for name in tally.blamed_ids if is_to_blame(name, log.deaths, signals)]
    lost = [*tally.lost, *(f"{name}: worker_crash without reason" for name in tally.blamed_ids if name not in excused)]
    faults = [*tally.faults, *soak.api.faults]
    twice = [name for name, count in log.answered_ids.items() if count > tally.sent_ids[name]]
    unlogged = [name for name, count in tally.answered_ids.items() if count > log.answered_ids[name]]
    unexplained = [str(death) for death in log.deaths if death.pid not in signals]
    daemon, like_age, long_lives = slopes(soak)
    counts = {
        "lost": lost,
        "wrong answers": tally.wrong,
        "answered twice": twice,
        "against the documentation": faults,
        "worker deaths without a signal": unexplained,
        "exceptions in the log": log.exceptions,
        "answers that the log lacks": unlogged,
    }
    broken = [f"{name}: {len(found)}" for name, found in counts.items() if found]
    if len(log.deaths) != soak.last.get("restarts"):
        broken.append(f"deaths in the log: {len(log.deaths)}, in /status: {soak.last.get('restarts')}")
    if soak.after.files > soak.before.files:
        broken.append(f"open files: {soak.before.files} before, {soak.after.files} after")
    if soak.after.threads > soak.before.threads + MORE_THREADS:
        broken.append(f"threads: {soak.before.threads} before, {soak.after.threads} after")
    if soak.exit_code != 0 or soak.left:
        broken.append(f"exit code {soak.exit_code}, processes left: {soak.left}")
    limits = [("the daemon", daemon, DAEMON_MAY_GROW_MIB)]
    limits += [("the worker", one, WORKER_MAY_GROW_MIB) for one in (like_age, long_lives)]
    broken += [f"{who} grows: {one}" for who, one, limit in limits if one and one.exceeds(limit)]
    if daemon is None or long_lives is None:
        broken.append("too short to see whether memory grows")
    latencies = tally.latencies_s or [0.0]
    longest = binned(max(soak.sampler.lives.values(), key=lambda life: life[-1][0], default=[]))
    return {
        "minutes": round(soak.minutes, 1),
        "requests": sum(tally.requests.values()),
        "requests by kind and end": _sorted(f"{kind}: {end}" for kind, end in tally.requests.elements()),
        "tries by status": {str(status): count for status, count in sorted(tally.tries.items())},
        "other calls": _sorted(soak.api.answers.elements()),
        **{name: len(found) for name, found in counts.items()},
        "blamed for two deaths alone": len(excused),
        "worker deaths": len(log.deaths),
        "worker deaths by signal": _sorted(f"{signals.get(one.pid)}: {_when(one)}" for one in log.deaths),
        "signals sent": _sorted(soak.killer.strikes.elements()),
        "releases": _sorted(log.releases.elements()),
        "idle releases": log.releases["idle"],
        "loads": soak.last.get("loads"),
        "p50 s": round(percentile(latencies, 50), 3),
        "p99 s": round(percentile(latencies, 99), 3),
        "daemon rss MiB": [round(one.rss / MIB, 1) for one in (soak.before, soak.after)],
        "daemon rss MiB in time": [
            round(rss / MIB, 1) for _, rss in binned([(s.at_s, s.rss) for s in soak.sampler.daemon])
        ],
        "worker rss MiB in the longest life": [round(rss / MIB) for _, rss in longest],
        "worker growth MiB in its halves": halves(longest),
        "daemon open files": [soak.before.files, soak.after.files],
        "daemon threads": [soak.before.threads, soak.after.threads],
        "daemon rss slope": str(daemon),
        "worker rss slope, of like age": str(like_age),
        "worker rss slope, in long lives": str(long_lives),
        "broken": broken,
        "examples": {name: found[:_EXAMPLES] for name, found in counts.items() if found},
    }


def is_to_blame(request_id: str, deaths: Iterable[Death], signals: dict[int, str]) -> bool:
    """Whether a request may be answered with worker_crash: it was alone at two deaths that came from inside (a SIGSEGV
    is one, whoever sent it), or the worker was ended from outside each of five times."""
    alone = outside = 0
    for death in deaths:
        inside = signals.get(death.pid) in (None, "SIGSEGV")
        alone += inside and death.held == (request_id,)
        outside += not inside and request_id in death.held
    return alone >= ALONE_DEATHS or outside >= OUTSIDE_DEATHS


def slopes(soak: Soak) -> tuple[Slope | None, Slope | None, Slope | None]:
    """Of the daemon's memory after warming up; of the workers' at the same age, from one to the next; within the long
    lives of workers."""
    samples = soak.sampler.daemon
    warm_s = samples[0].at_s + WARM_UP_SHARE * (samples[-1].at_s - samples[0].at_s)
    daemon = slope([(one.at_s, one.rss) for one in samples if one.at_s >= warm_s])
    born_s, lives = soak.sampler.born_s, soak.sampler.lives
    aged = [(born_s[pid], [rss for age, rss in life if age >= LIKE_AGE_S]) for pid, life in lives.items()]
    of_like_age = [(at_s, found[0]) for at_s, found in aged if found]
    longest_s = max((life[-1][0] for life in lives.values()), default=0.0)
    long_lives = [life for life in lives.values() if life[-1][0] >= LONG_LIFE_SHARE * longest_s > 0]
    late = [[(age, rss) for age, rss in life if age >= life[-1][0] / 2] for life in long_lives]
    return daemon, slope(of_like_age) if of_like_age else None, slope(*late) if late else None


def halves(life: Series) -> list[float]:
    """What a worker of this (age in seconds, bytes) grew by in the first half of its life and in the second, MiB."""
    if len(life) < 3:
        return []
    first, last = life[0], life[-1]
    middle = min(life, key=lambda point: abs(point[0] - (first[0] + last[0]) / 2))
    return [round((after[1] - before[1]) / MIB, 1) for before, after in ((first, middle), (middle, last))]


def write(found: dict[str, Any], about: dict[str, Any], path: Path) -> None:
    """The figures as JSON, and beside them, as .md, with what they are about."""
    path.write_text(json.dumps({**about, **found}, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(f"{notes(about)}\n{table(found)}", encoding="utf-8")


def table(found: dict[str, Any]) -> str:
    """The figures in Markdown."""
    rows = [f"| {name} | {_words(value)} |" for name, value in found.items() if name != "examples"]
    return "\n".join(["| what | found |", "|---|---|", *rows]) + "\n"


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return "<br>".join(f"{name}: {count}" for name, count in value.items()) or "-"
    if isinstance(value, list):
        return " -> ".join(map(str, value)) or "-"
    return str(value)


def _when(death: Death) -> str:
    return f"{death.cause}, {'holding some' if death.held else 'holding nothing or loading'}"


def _sorted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
