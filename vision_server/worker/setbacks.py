"""How long to wait before the next worker, and when to stop trying to load. Plain decisions; the time is handed in."""

from __future__ import annotations

from ..errors import LoadFailed, VisionError
from .line import MAX_BACKOFF_S, MAX_TRIES_OUTSIDE

MAX_LOAD_DEATHS = 3
STALL = "stall"
_FIRST_BACKOFF_S = 0.25


class Setbacks:
    """One model's: deaths and failed loads since its worker last answered.

    The first replacement comes at once: most deaths are a single event, and somebody waits. Then 0.25 s, 0.5 s, ... so
    that a machine in trouble is not kept busy with starting processes.
    """

    def __init__(self) -> None:
        self.failure: VisionError | None = None  # why the last load failed
        self.not_before_s = float("-inf")
        self._in_a_row = 0
        self._load_deaths = 0
        self._load_deaths_outside = 0

    def note_failure(self, now: float) -> None:
        self._in_a_row += 1
        doublings = min(self._in_a_row - 2, 10)
        delay_s = 0.0 if self._in_a_row == 1 else min(_FIRST_BACKOFF_S * 2**doublings, MAX_BACKOFF_S)
        self.not_before_s = now + delay_s

    def note_answer(self) -> None:
        self._in_a_row = 0
        self.not_before_s = float("-inf")

    def note_load(self) -> None:
        self.failure = None
        self._load_deaths = self._load_deaths_outside = 0

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
            self.note_load()
            what = "made no progress" if stalled else "kept crashing"
            return LoadFailed(f"The model could not be loaded: the worker {what}. The server's log has the details.")
        return None
