"""One worker process after the other: spawned, loading, ready, ending, gone. It knows nothing of requests.

The part of `supervisor` that is about the process alone; plain, the time is handed in. What it wants done goes out
through `Effects`.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ..errors import VisionError
from .lane import Job
from .process import Exit
from .protocol import Done, Frame, Progress, Ready, Stop
from .setbacks import STALL
from .transfer import PHASE as DOWNLOAD
from .transfer import Transfer

log = logging.getLogger(__name__)

STOP_GRACE_S = 5.0  # the worker ends on Stop as soon as its reader thread runs, so this is plenty
HANG, GARBAGE, LOAD_FAILED, SHUTDOWN, SWAP = "hang", "garbage", "load_failed", "shutdown", "swap"
_ASKED_FOR = ("idle", "unload", SHUTDOWN, LOAD_FAILED, SWAP)  # reasons for an end that is not a death
_NEVER = float("inf")


class Effects(Protocol):
    """What a supervisor can have done. None of these calls back into it."""

    def spawn(self, model: str) -> None: ...

    def send(self, frame: Frame) -> None: ...

    def kill(self) -> None: ...

    def is_stopped(self) -> bool: ...

    def answer(self, job: Job, result: Done | VisionError | None) -> None: ...


@dataclass(frozen=True)
class Limits:
    """Times in seconds. Without `wait_for_download`, requests are refused while their model is being downloaded."""

    load_stall_timeout_s: float = 120.0
    step_stall_timeout_s: float = 120.0
    shutdown_grace_s: float = 30.0
    wait_for_download: bool = True


class Phase(Enum):
    GONE = "gone"
    STARTING = "starting"
    READY = "ready"
    ENDING = "ending"


@dataclass(frozen=True)
class Death:
    """An end of the worker that nobody asked for."""

    cause: str
    was_ready: bool
    from_outside: bool


class Life:
    """`model` is the present worker's, None without one; `ready` is what it said when it was; `progress` its last."""

    def __init__(self, limits: Limits, effects: Effects) -> None:
        self.phase = Phase.GONE
        self.model: str | None = None
        self.ready: Ready | None = None
        self.progress: Progress | None = None
        self.transfer: Transfer | None = None  # the download that goes on now
        self.loads = 0
        self.loading_s = 0.0  # of all loads together
        self.last_load_s: float | None = None
        self.unloads_by: Counter[str] = Counter()  # idle, unload, shutdown, swap
        self.restarts_by: Counter[str] = Counter()  # hang, stall, garbage, or as `Exit.kind`
        self.started_s = self.advance_s = 0.0
        self._limits = limits
        self._effects = effects
        self._because = ""  # of the ending
        self._kill_at_s = _NEVER
        self._suspended = False  # by others, when it was killed for its silence

    @property
    def unloads(self) -> int:
        return sum(self.unloads_by.values())

    @property
    def restarts(self) -> int:
        return sum(self.restarts_by.values())

    @property
    def slots(self) -> int:
        return self.ready.slots if self.ready and self.phase is Phase.READY else 0

    @property
    def can_be_stopped(self) -> bool:
        return self.phase in (Phase.STARTING, Phase.READY)

    def spawn(self, model: str, now: float) -> None:
        assert self.phase is Phase.GONE
        self.model = model
        self.phase, self._because, self._suspended, self._kill_at_s = Phase.STARTING, "", False, _NEVER
        self.started_s = self.advance_s = now
        self._effects.spawn(model)

    def stop(self, now: float, because: str) -> None:
        """Ask the worker to end; `due_s` says when to lose patience."""
        log.info("the worker is released: %s", because)
        self.phase, self._because, self._kill_at_s = Phase.ENDING, because, now + STOP_GRACE_S
        self.transfer = None
        self._effects.send(Stop())

    def kill(self, because: str) -> None:
        log.warning("the worker is killed: %s", because)
        self.phase, self._because, self._kill_at_s = Phase.ENDING, because, _NEVER
        self.transfer = None
        self._effects.kill()

    def due_s(self, *, busy: bool) -> float:
        """When the worker will have been silent for too long, or too slow to end; infinite when nothing is awaited."""
        if self.phase is Phase.STARTING:
            return self.advance_s + self._limits.load_stall_timeout_s
        if self.phase is Phase.READY and busy:
            return self.advance_s + self._limits.step_stall_timeout_s
        return self._kill_at_s if self.phase is Phase.ENDING else _NEVER

    def lose_patience(self) -> None:
        """`due_s` has come."""
        if self.phase is Phase.ENDING:
            self.kill(self._because)
        else:
            self._suspended = self._effects.is_stopped()
            self.kill(HANG if self.phase is Phase.READY else STALL)

    def take_progress(self, progress: Progress, now: float) -> None:
        self.progress = progress
        if self.phase is not Phase.STARTING or progress.phase != DOWNLOAD:
            self.transfer = None
        elif self.transfer is None:
            self.transfer = Transfer(progress, now)
        else:
            self.transfer.advance(progress)

    def take_ready(self, ready: Ready, now: float) -> bool:
        """The worker is ready, or has changed its slots. True when it has just been loaded."""
        if self.phase is Phase.ENDING:
            return False
        loaded = self.phase is Phase.STARTING
        self.phase, self.ready = Phase.READY, ready
        if loaded:
            self.progress = self.transfer = None
            self.loads += 1
            self.last_load_s = now - self.started_s
            self.loading_s += self.last_load_s
            log.info("model %s is ready on %s after %.1f s", ready.model, ready.device, self.last_load_s)
        return loaded

    def end(self, end: Exit) -> Death | None:
        """The process is gone. A Death unless it was asked to go."""
        was_ready, because = self.ready is not None, self._because
        self._clear()
        if because in _ASKED_FOR:
            if was_ready:
                self.unloads_by[because] += 1
            return None
        self.restarts_by[because or end.kind] += 1
        return Death(because or str(end), was_ready, end.from_outside or self._suspended)

    def spawn_failed(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.phase, self.model = Phase.GONE, None
        self.ready = self.progress = self.transfer = None
