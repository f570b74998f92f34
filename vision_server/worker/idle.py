"""When an unused worker ends: a timer that is reset on use, and how long it runs. Plain, the time is handed in."""

from __future__ import annotations

from collections.abc import Mapping

from .lane import Job


class IdleClock:
    """`at_s` is when the worker has been idle for long enough; None while it is in use, absent, or kept for ever.

    `timeouts_s` has for every model how long its worker may be idle: in seconds, negative for ever, 0 as soon as
    nothing is left to do. What a request says about it holds until the next one is answered, for its model only.
    """

    def __init__(self, timeouts_s: Mapping[str, float]) -> None:
        self.at_s: float | None = None
        self._timeouts_s = timeouts_s
        self._keep_alive_s: float | None = None

    def begin(self) -> None:
        """A new worker: nobody has asked it to stay."""
        self._keep_alive_s = None

    def note_answer(self, job: Job, model: str | None) -> None:
        """`job` is answered while the worker, if there is one, has `model`."""
        if job.model == model:
            self._keep_alive_s = job.keep_alive_s

    def stop(self) -> None:
        self.at_s = None

    def run(self, model: str, now: float) -> None:
        """The worker has `model` and nothing to do. Goes on where it runs already."""
        if self.at_s is None:
            timeout_s = self._timeouts_s[model] if self._keep_alive_s is None else self._keep_alive_s
            self.at_s = now + timeout_s if timeout_s >= 0 else None
