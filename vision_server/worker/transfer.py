"""How far the download of a checkpoint is, from what the worker reports: in words, and in seconds. Moves no bytes."""

from __future__ import annotations

from .protocol import Progress

PHASE = "download"  # the load phase that does not count against anybody's deadline
_UNKNOWN_S = 10.0  # until there is a rate to count with
_MAX_S = 120.0  # clients that are told to wait longer give up


class Transfer:
    """One download, from the first Progress about it at `now`, in monotonic seconds."""

    def __init__(self, first: Progress, now: float) -> None:
        self._latest = first
        self._had_bytes, self._since_s = first.done, now

    def advance(self, progress: Progress) -> None:
        if not self._latest.total:
            self._had_bytes = progress.done  # of an earlier attempt: they took no time now
        self._latest = progress

    def left_s(self, now: float) -> float:
        """Seconds until it is worth asking again: what is left over the rate so far, 1 to 120."""
        came = self._latest.done - self._had_bytes
        if came <= 0 or now <= self._since_s:
            return _UNKNOWN_S
        rate = came / (now - self._since_s)
        return min(max((self._latest.total - self._latest.done) / rate, 1.0), _MAX_S)

    def __str__(self) -> str:
        if not self._latest.total:
            return "the download has just begun"
        return f"{self._latest.done / 1e6:,.0f} of {self._latest.total / 1e6:,.0f} MB are here"
