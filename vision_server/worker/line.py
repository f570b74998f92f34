"""The line of requests in front of one worker: who goes next, who runs alone, who is to blame when it dies.

Plain decisions: no asyncio, no process, and the time is handed in. `supervisor` says when; this says who.

Blame belongs to a request, never to a picture's content. When a worker dies, everything it held is suspect and goes
first, each alone; whoever was alone at two deaths has caused them. A signal from outside is nobody's fault, up to a
point: the kernel's memory killer sends the same signal as an impatient administrator.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .protocol import Run

MAX_DEATHS_ALONE = 2
MAX_TRIES_OUTSIDE = 5
MAX_BACKOFF_S = 5.0


@dataclass(eq=False)
class Job:
    """One thing asked for: a request, or with `run` None only a loaded (or an unloaded) model. Times are monotonic."""

    id: int
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


class Line:
    """Every job that is not answered yet, and every one the worker still holds.

    `alive` has the unanswered ones in order of arrival, which is the order of their deadlines too. A job that was
    answered while the worker held it (cancelled, too late) stays in `held` until the worker lets go of it.
    """

    def __init__(self) -> None:
        self.alive: dict[int, Job] = {}
        self.waiting: deque[Job] = deque()
        self.suspects: deque[Job] = deque()
        self.held: dict[int, Job] = {}
        self.loaders: dict[int, Job] = {}  # those of `alive` that only want the model

    @property
    def depth(self) -> int:
        return len(self.waiting) + len(self.suspects)

    def add(self, job: Job) -> None:
        """Put a job at the end; one without a Run has nothing to send and only waits for the model."""
        self.alive[job.id] = job
        if job.run is None:
            self.loaders[job.id] = job
        else:
            job.queued = True
            self.waiting.append(job)

    def next(self, slots: int, last_id: int | None = None) -> Job | None:
        """The job to send now, moved to `held`; None when there is no room, or only jobs after `last_id` are left."""
        if self.suspects:
            if self.held:
                return None
            job = self.suspects.popleft()
        else:
            alone = any(job.suspect for job in self.held.values())
            if not self.waiting or alone or len(self.held) >= slots:
                return None
            if last_id is not None and self.waiting[0].id > last_id:
                return None
            job = self.waiting.popleft()
        job.queued = False
        self.held[job.id] = job
        return job

    def answered(self, job: Job) -> None:
        """Take an unanswered job out, wherever it waits. A held one keeps its slot until `released`."""
        job.answered = True
        del self.alive[job.id]
        self.loaders.pop(job.id, None)
        if job.queued:
            (self.suspects if job.suspect else self.waiting).remove(job)
            job.queued = False

    def released(self, job_id: int) -> Job | None:
        """The worker has let go of a job; None when it did not hold it."""
        return self.held.pop(job_id, None)

    def bury(self, *, from_outside: bool) -> list[Job]:
        """The worker died. What it held is suspect and goes first; who is to blame is returned, still unanswered."""
        alone = len(self.held) == 1
        held = [job for job in self.held.values() if not job.answered]
        self.held.clear()
        guilty = []
        for job in held:
            job.suspect = True
            job.deaths_outside += from_outside
            job.deaths_alone += alone and not from_outside
            if job.deaths_alone >= MAX_DEATHS_ALONE or job.deaths_outside >= MAX_TRIES_OUTSIDE:
                guilty.append(job)
        innocent = [job for job in held if job not in guilty]
        for job in innocent:
            job.queued = True
        self.suspects = deque(sorted([*innocent, *self.suspects], key=lambda job: job.id))
        return guilty

    def expired(self, now: float) -> list[Job]:
        """The unanswered jobs whose deadline has passed."""
        late = []
        for job in self.alive.values():
            if job.deadline_s > now:
                break
            late.append(job)
        return late

    def next_deadline_s(self) -> float | None:
        return next((job.deadline_s for job in self.alive.values()), None)

    def postpone(self, since: float, now: float) -> None:
        """Time between `since` and now does not count against anybody's deadline."""
        for job in self.alive.values():
            job.deadline_s += now - max(since, job.arrived_s)

    def charge_backoff(self, wanted_s: float) -> float:
        """How long everybody here can be made to wait before the next start; it is noted on each of them."""
        delay_s = min([wanted_s, *(MAX_BACKOFF_S - job.backoff_s for job in self.alive.values())])
        for job in self.alive.values():
            job.backoff_s += delay_s
        return delay_s

    def busy_until(self, last_id: int) -> bool:
        """Whether a job up to `last_id` is unanswered, or the worker holds anything."""
        return bool(self.held) or next(iter(self.alive), last_id + 1) <= last_id
