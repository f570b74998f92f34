"""Those who wait for one model, in order, and from when on it may be started for them.

Plain values, as `line`, which holds one lane for every model that is served.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .protocol import Run

MAX_OVERTAKING = 8  # a swap costs a load: some may go first, but who waits for the other model is not put off for long
AT_ONCE = float("-inf")


@dataclass(eq=False)
class Job:
    """One thing asked for: a request, or with `run` None only a loaded (or an unloaded) model. Times are monotonic."""

    id: int
    model: str
    run: Run | None
    arrived_s: float
    deadline_s: float
    keep_alive_s: float | None = None
    sent_s: float = 0.0
    load_s: float = 0.0  # how much of the wait was loading
    backoff_s: float = 0.0  # how much of the wait was back-off, MAX_BACKOFF_S at most
    deaths_alone: int = 0
    deaths_outside: int = 0
    suspect: bool = False
    queued: bool = False  # in `waiting` or `suspects`
    answered: bool = False


class Lane:
    """`start_at_s` is set while somebody waits here and the model is not the worker's: AT_ONCE, or after a back-off."""

    def __init__(self) -> None:
        self.waiting: deque[Job] = deque()
        self.suspects: deque[Job] = deque()
        self.loaders: dict[int, Job] = {}  # those that only want the model
        self.start_at_s: float | None = None
        self._overtakers: list[int] = []  # ids of the requests for other models that went before the first one here

    @property
    def depth(self) -> int:
        return len(self.waiting) + len(self.suspects)

    @property
    def first_id(self) -> int | None:
        """The id of the one who waits longest; None when nobody does."""
        ids = [queue[0].id for queue in (self.suspects, self.waiting) if queue]
        return min([*ids, *list(self.loaders)[:1]], default=None)

    @property
    def may_be_overtaken(self) -> bool:
        first_id = self.first_id
        return first_id is None or sum(1 for id in self._overtakers if id > first_id) < MAX_OVERTAKING

    def add(self, job: Job) -> None:
        if job.run is None:
            self.loaders[job.id] = job
        else:
            job.queued = True
            self.waiting.append(job)

    def remove(self, job: Job) -> None:
        """Take a job out, if it waits here."""
        self.loaders.pop(job.id, None)
        if job.queued:
            (self.suspects if job.suspect else self.waiting).remove(job)
            job.queued = False

    def pop(self) -> Job:
        """The one who goes next: a suspect, or the one who waits longest."""
        job = (self.suspects or self.waiting).popleft()
        job.queued = False
        return job

    def suspect(self, jobs: list[Job]) -> None:
        """Put back what a dead worker held."""
        for job in jobs:
            job.queued = True
        self.suspects = deque(sorted([*jobs, *self.suspects], key=lambda job: job.id))

    def note_overtaker(self, job_id: int) -> None:
        """A request for another model is sent. It has overtaken the first one here if it came later."""
        first_id = self.first_id
        if first_id is not None:
            self._overtakers = [id for id in (*self._overtakers, job_id) if id > first_id]
