"""When a worker process is started ahead of its model: a spare, which imports torch while a request's body arrives.

Plain decisions; the time is handed in, and what is to be done goes out through `Effects`, which must not call back.
A spare holds no model and no device. When a model is to be loaded, the spare that is there becomes the worker.

    state    a process?  how it is left
    none     no          wanted -> there
    there    soon, yes   taken (it is the worker now), its end -> none; not wanted any longer -> leaving
    leaving  yes         its end -> none

One is wanted while a body arrives and there is no worker. Nobody may come of it (the body is refused): then it lingers
for those who try again. With `standby` one is wanted always, but for the time in which a worker loads, or serves the
only model there is. One that ends unasked is not replaced until the next body arrives; with `standby` after a back-off.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from .life import Phase

LINGER_S = 10.0
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 1.0, 60.0
_NEVER = float("inf")
_AT_ONCE = float("-inf")


class Effects(Protocol):
    """What a Standby can have done."""

    def start_spare(self) -> None: ...

    def end_spare(self) -> None: ...


class State(Enum):
    NONE = "none"
    THERE = "there"
    LEAVING = "leaving"


class Standby:
    """At most one spare. `kept` is the setting `standby`; `for_swaps`: keep one beside a worker that serves, too."""

    def __init__(self, effects: Effects, *, kept: bool = False, for_swaps: bool = False) -> None:
        self.state = State.NONE
        self._effects = effects
        self._kept, self._for_swaps = kept, for_swaps
        self._expected = 0  # bodies that arrive now
        self._linger_until_s = _AT_ONCE
        self._not_before_s = _AT_ONCE
        self._ends_in_a_row = 0
        self._is_wanted = False  # but for the back-off

    def expect(self) -> None:
        """A body begins to arrive."""
        self._expected += 1
        self._not_before_s = _AT_ONCE

    def expect_no_longer(self, now: float) -> None:
        """It is here, or will not come."""
        self._expected -= 1
        self._linger_until_s = now + LINGER_S

    def take(self) -> bool:
        """Whether there is a spare to become the worker; it is not this one's any more."""
        if self.state is not State.THERE:
            return False
        self.state = State.NONE
        self._ends_in_a_row = 0
        return True

    def on_end(self, now: float) -> None:
        """The spare is gone, or could not be started."""
        if self.state is State.THERE:
            backoff_s = min(_FIRST_BACKOFF_S * 2 ** min(self._ends_in_a_row, 10), _MAX_BACKOFF_S)
            self._not_before_s = now + backoff_s if self._kept else _NEVER
            self._ends_in_a_row += 1
        self.state = State.NONE

    def settle(self, worker: Phase, now: float, *, draining: bool) -> None:
        """After every event, and when it is time: start or end it. `worker` is what the worker is at."""
        self._is_wanted = not draining and self._wants_one(worker)
        if self.state is State.NONE and self._is_wanted and now >= self._not_before_s:
            self.state = State.THERE
            self._effects.start_spare()
        elif self.state is State.THERE and (draining or (self._lingers and now >= self._linger_until_s)):
            self.state = State.LEAVING
            self._effects.end_spare()

    @property
    def next_wakeup_s(self) -> float | None:
        """When `settle` is to be called next; None when only an event can change anything."""
        if self.state is State.NONE and self._is_wanted and self._not_before_s != _NEVER:
            return self._not_before_s
        return self._linger_until_s if self.state is State.THERE and self._lingers else None

    @property
    def _lingers(self) -> bool:
        return not self._kept and not self._expected

    def _wants_one(self, worker: Phase) -> bool:
        if worker is Phase.GONE:
            return self._kept or self._expected > 0
        return self._kept and self._for_swaps and worker is Phase.READY
