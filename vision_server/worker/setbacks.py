"""What is learnt from trouble: how long to wait before the next worker, when to stop trying to load, and how many
requests the memory has room for. Plain decisions; the time is handed in."""

from __future__ import annotations

from ..errors import LoadFailed, VisionError
from .line import MAX_BACKOFF_S, MAX_TRIES_OUTSIDE

MAX_LOAD_DEATHS = 3
STALL = "stall"
_FIRST_BACKOFF_S = 0.25
_FIRST_UNREADY_S, _MAX_UNREADY_S = 30.0, 600.0


class Setbacks:
    """One model's: deaths and failed loads since its worker last answered, and its lacks of memory.

    The first replacement comes at once: most deaths are a single event, and somebody waits. Then 0.25 s, 0.5 s, ... so
    that a machine in trouble is not kept busy with starting processes.

    A worker that ran out of memory takes half as many requests at once, and so does the next one: what filled the
    memory may still be there. But not for ever: one that answered with that many at work and never ran out lets the
    next one take twice as many. So no two in a row run out of memory because of that.

    After a failed load the next request tries again, but who shares requests out among servers should leave this one
    out, until `unready_until_s`: half a minute, then twice as long each time, at most ten minutes. Not until the next
    success: without requests there would never be one.
    """

    def __init__(self) -> None:
        self.failure: VisionError | None = None  # why the last load failed
        self.not_before_s = self.unready_until_s = float("-inf")
        self._in_a_row = 0
        self._failed_loads = 0
        self._load_deaths = 0
        self._load_deaths_outside = 0
        self._room_for: int | None = None  # requests at once, after a lack of memory
        self._lacked = False  # this worker ran out of memory
        self._had_room = False  # it did not, and had that many at once

    def note_failure(self, now: float) -> None:
        self._in_a_row += 1
        doublings = min(self._in_a_row - 2, 10)
        delay_s = 0.0 if self._in_a_row == 1 else min(_FIRST_BACKOFF_S * 2**doublings, MAX_BACKOFF_S)
        self.not_before_s = now + delay_s

    def note_answer(self, at_once: int = 0) -> None:
        """The worker answered while it had room for so many requests, this one included."""
        self._in_a_row = 0
        self.not_before_s = float("-inf")
        self._had_room |= not self._lacked and self._room_for is not None and at_once >= self._room_for

    def note_failed_load(self, error: VisionError, now: float) -> None:
        """An attempt was given up, and who waited was told `error`."""
        self.failure = error
        self.unready_until_s = now + min(_FIRST_UNREADY_S * 2 ** min(self._failed_loads, 10), _MAX_UNREADY_S)
        self._failed_loads += 1

    def note_load(self) -> None:
        self.failure, self.unready_until_s = None, float("-inf")
        self._failed_loads = self._load_deaths = self._load_deaths_outside = 0
        if self._room_for is not None and self._had_room:
            self._room_for *= 2
        self._lacked = self._had_room = False

    def note_lack(self, slots: int) -> None:
        """The worker ran out of memory, and has room for `slots` requests from now on."""
        self._room_for, self._lacked, self._had_room = slots, True, False

    def slots(self, offered: int) -> int:
        """How many of the slots that the worker offers are used."""
        return offered if self._room_for is None else min(offered, self._room_for)

    def note_load_death(self, cause: str, *, from_outside: bool) -> LoadFailed | None:
        """The worker died before it was ready. The error that ends the attempt, or None: try again.

        A load that stands still is not tried again: the next one would only take as long to be found out.
        """
        if from_outside:
            self._load_deaths_outside += 1
        else:
            self._load_deaths += 1
        stalled = cause == STALL and not from_outside
        if stalled or self._load_deaths >= MAX_LOAD_DEATHS or self._load_deaths_outside >= MAX_TRIES_OUTSIDE:
            self._load_deaths = self._load_deaths_outside = 0
            what = "made no progress" if stalled else "kept crashing"
            return LoadFailed(f"The model could not be loaded: the worker {what}. The server's log has the details.")
        return None
