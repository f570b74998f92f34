"""What a running server says of itself, and what of it is wrong. Asks what only looks: nothing is loaded or kept awake.

Nothing is printed here. What a server sends may be anything, so it is taken apart with care and shown without what a
terminal obeys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeGuard

from .. import __version__
from .server import ClientError, Refused, Server
from .terminal import printable

_ANSWER_TIMEOUT_S = 10.0  # looking takes a server milliseconds
_STATES = ("unloaded", "loading", "ready", "unloading", "failed")


@dataclass(frozen=True)
class Finding:
    """A line of the report; one that `is_wrong` is a whole sentence."""

    name: str
    text: str
    is_wrong: bool = False


def examine(address: str, key: str | None, answer_timeout_s: float = _ANSWER_TIMEOUT_S) -> Iterator[Finding]:
    """Every finding about the server at `address`, asked with `key`; one alone where it cannot be asked."""
    try:
        server = Server(address, key, answer_timeout_s)
        status = server.call("/status")
        readiness = _readiness(server)
    except Refused as error:
        yield Finding("server", printable(_refusal(error, address, key)), is_wrong=True)
        return
    except ClientError as error:
        yield Finding("server", printable(str(error)), is_wrong=True)
        return
    if not isinstance(status, dict) or status.get("state") not in _STATES:
        yield Finding("server", f"what answers at {server.url} is no vision-server.", is_wrong=True)
        return
    yield Finding("server", f"{server.url} answers")
    for finding in (_version(status), *_told(status), *_failures(status, readiness)):
        yield Finding(finding.name, printable(finding.text), finding.is_wrong)


def _readiness(server: Server) -> str | None:
    """Why it cannot serve now; None when it can."""
    try:
        server.call("/ready")
    except Refused as error:
        if error.status != 503:
            raise
        return error.message or "no reason is given"
    return None


def _refusal(error: Refused, address: str, key: str | None) -> str:
    """What is wrong and what to do, of a server that does not let us in."""
    if error.message is not None and error.status == 401:
        what = "refuses the key in VISION_API_KEY" if key else "wants a key: put it into VISION_API_KEY"
        return f"the server at {address} {what}. It says: {error.message}"
    if error.message is not None and error.status == 403:
        return f"the server refuses the name in {address}. It says: {error.message}"
    return str(error)


def _version(status: Mapping[str, Any]) -> Finding:
    version = status.get("version")
    if not isinstance(version, str):
        return Finding("version", f"the server is older than {__version__}, which this is: update it.", is_wrong=True)
    other = "" if version == __version__ else f" (here it is {__version__})"
    uptime = f", up for {_span(status['uptime_s'])}" if _is_number(status.get("uptime_s")) else ""
    return Finding("version", f"{version}{other}{uptime}")


def _told(status: Mapping[str, Any]) -> Iterator[Finding]:
    """What is so, and what is wrong with the queue. A figure that an older server lacks is left out."""
    state = status["state"]
    phase = f", {status['load_phase']}" if status.get("load_phase") else ""
    idle_s = status.get("idle_unload_in_s")
    rest = f", unloads in {_span(idle_s)}" if _is_number(idle_s) else ""
    yield Finding("state", f"{state}{phase}{rest}")
    models = status.get("models")
    others = [str(model) for model in models if model != status.get("model")] if isinstance(models, list) else []
    also = f"; also {', '.join(others)}" if others else ""
    yield Finding("model", f"{status.get('model')} on {status.get('device')}, {status.get('dtype')}{also}")
    if all(_is_number(status.get(name)) for name in ("queue_depth", "queue_capacity", "in_flight")):
        depth, capacity = status["queue_depth"], status["queue_capacity"]
        waiting = f"{depth} of {capacity} wait, {status['in_flight']} in flight"
        if depth >= capacity:
            yield Finding("queue", f"the queue is full: {waiting}; more get 429.", is_wrong=True)
        else:
            yield Finding("queue", waiting)
    memory = {"worker": status.get("worker_rss_bytes"), "device": status.get("worker_device_bytes")}
    known = [f"{name} {value / (1 << 20):,.0f} MiB" for name, value in memory.items() if _is_number(value)]
    yield Finding("memory", ", ".join(known) or "no worker")
    last_s = status.get("last_load_s")
    last = f", the last in {last_s:.1f} s" if _is_number(last_s) else ""
    yield Finding("loads", f"{status.get('loads')}{last}")
    for name in ("unloads", "restarts"):
        yield Finding(name, _by_cause(status.get(name), status.get(f"{name}_by_cause")))


def _failures(status: Mapping[str, Any], not_ready: str | None) -> Iterator[Finding]:
    """Failed loads; and, where those do not explain it, that it cannot serve."""
    failures = status.get("failures")
    if isinstance(failures, dict):
        for model, why in failures.items():
            yield Finding("last load", f"model {model} could not be loaded: {why}", is_wrong=True)
    if not_ready is not None and not failures:
        yield Finding("ready", f"the server cannot serve now: {not_ready}", is_wrong=True)
    elif not_ready is None:
        yield Finding("ready", "yes")


def _by_cause(total: object, causes: object) -> str:
    if isinstance(causes, dict) and causes:
        return f"{total}: {', '.join(f'{cause} {count}' for cause, count in causes.items())}"
    return str(total)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _span(seconds: float) -> str:
    """As `1 day, 2:03:04`."""
    return str(timedelta(seconds=round(min(max(seconds, 0), 1e9))))
