"""One worker process after the other: spawned, loading, ready, ending, gone. It knows nothing of requests.

The part of `supervisor` that is about the process alone; plain, the time is handed in. What it wants done goes out
through `Effects`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ..errors import VisionError
from .line import Job
from .process import Exit
from .protocol import Done, Frame, Progress, Ready, Stop
from .setbacks import STALL

log = logging.getLogger(__name__)

STOP_GRACE_S = 5.0  # the worker ends on Stop as soon as its reader thread runs, so this is plenty
HANG, GARBAGE, LOAD_FAILED, SHUTDOWN = "hang", "garbage", "load_failed", "shutdown"
_ASKED_FOR = ("idle", "unload", SHUTDOWN, LOAD_FAILED)  # reasons for an end that is not a death
_DOWNLOAD = "download"  # the load phase that does not count against anybody's deadline
_NEVER = float("inf")


class Effects(Protocol):
    """What a supervisor can have done. None of these calls back into it."""

    def spawn(self) -> None: ...

    def send(self, frame: Frame) -> None: ...

    def kill(self) -> None: ...

    def is_stopped(self) -> bool: ...

    def answer(self, job: Job, result: Done | VisionError | None) -> None: ...


@dataclass(frozen=True)
class Limits:
    """Times in seconds. A negative idle timeout means never, 0 as soon as nothing is left to do."""

    idle_timeout_s: float = 300.0
    load_stall_timeout_s: float = 120.0
    step_stall_timeout_s: float = 120.0
    shutdown_grace_s: float = 30.0


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
    """`ready` is what the present worker said when it was; `progress` the last it reported."""

    def __init__(self, limits: Limits, effects: Effects) -> None:
        self.phase = Phase.GONE
        self.ready: Ready | None = None
        self.progress: Progress | None = None
        self.loads = self.unloads = self.restarts = 0
        self.last_load_s: float | None = None
        self.started_s = self.advance_s = 0.0
        self._limits = limits
        self._effects = effects
        self._because = ""  # of the ending
        self._kill_at_s = _NEVER
        self._suspended = False  # by others, when it was killed for its silence

    @property
    def slots(self) -> int:
        return self.ready.slots if self.ready and self.phase is Phase.READY else 0

    @property
    def can_be_stopped(self) -> bool:
        return self.phase in (Phase.STARTING, Phase.READY)

    @property
    def downloading(self) -> bool:
        return self.phase is Phase.STARTING and self.progress is not None and self.progress.phase == _DOWNLOAD

    def spawn(self, now: float) -> None:
        assert self.phase is Phase.GONE
        self.phase, self._because, self._suspended, self._kill_at_s = Phase.STARTING, "", False, _NEVER
        self.started_s = self.advance_s = now
        self._effects.spawn()

    def stop(self, now: float, because: str) -> None:
        """Ask the worker to end; `due_s` says when to lose patience."""
        log.info("the worker is released: %s", because)
        self.phase, self._because, self._kill_at_s = Phase.ENDING, because, now + STOP_GRACE_S
        self._effects.send(Stop())

    def kill(self, because: str) -> None:
        log.warning("the worker is killed: %s", because)
        self.phase, self._because, self._kill_at_s = Phase.ENDING, because, _NEVER
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

    def take_ready(self, ready: Ready, now: float) -> bool:
        """The worker is ready, or has changed its slots. True when it has just been loaded."""
        if self.phase is Phase.ENDING:
            return False
        loaded = self.phase is Phase.STARTING
        self.phase, self.ready = Phase.READY, ready
        if loaded:
            self.progress = None
            self.loads += 1
            self.last_load_s = now - self.started_s
            log.info("model %s is ready on %s after %.1f s", ready.model, ready.device, self.last_load_s)
        return loaded

    def end(self, end: Exit) -> Death | None:
        """The process is gone. A Death unless it was asked to go."""
        was_ready, because = self.ready is not None, self._because
        self.phase, self.ready, self.progress = Phase.GONE, None, None
        if because in _ASKED_FOR:
            self.unloads += was_ready
            return None
        self.restarts += 1
        return Death(because or str(end), was_ready, end.from_outside or self._suspended)

    def spawn_failed(self) -> None:
        self.phase = Phase.GONE
