"""The line of requests in front of one worker: who goes next, who runs alone, who is to blame when it dies.

Plain decisions: no asyncio, no process, and the time is handed in. `supervisor` says when; this says who.

The worker has one model. First in, first out among all models, except that MAX_OVERTAKING requests for the worker's
model may go before the first one that waits for another. One that left before it was sent has overtaken nobody.

Blame belongs to a request, never to a picture's content. When a worker dies, everything it held is suspect and goes
first among those who want its model, each alone; whoever was alone at two deaths has caused them. A signal from outside
is nobody's fault, up to a point: the kernel's memory killer sends the same signal as an impatient administrator.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import chain, takewhile

from .lane import AT_ONCE, Job, Lane

MAX_DEATHS_ALONE = 2
MAX_TRIES_OUTSIDE = 5
MAX_BACKOFF_S = 5.0


class Line:
    """Every job that is not answered yet, and every one the worker still holds.

    `alive` has the unanswered ones in order of arrival, `_deadlines` in the order of their deadlines, with their ids. A
    job that was answered while the worker held it (cancelled, too late) stays in `held` until the worker lets go of it.
    `last_id`, where it is given, means that the jobs after it wait for something else.
    """

    def __init__(self, models: Iterable[str]) -> None:
        self.alive: dict[int, Job] = {}
        self.held: dict[int, Job] = {}
        self.lanes = {model: Lane() for model in models}
        self._deadlines: list[tuple[float, int]] = []

    @property
    def depth(self) -> int:
        return sum(lane.depth for lane in self.lanes.values())

    @property
    def waiting(self) -> int:
        """How many were never sent."""
        return sum(len(lane.waiting) for lane in self.lanes.values())

    @property
    def loaders(self) -> int:
        """How many only want their model."""
        return sum(len(lane.loaders) for lane in self.lanes.values())

    def in_order(self) -> Iterator[Job]:
        """Those who wait to be sent, in order of arrival, the retried first."""
        lanes = self.lanes.values()
        suspects, waiting = (lane.suspects for lane in lanes), (lane.waiting for lane in lanes)
        return chain(*(merge(*queues, key=lambda job: job.id) for queues in (suspects, waiting)))

    def add(self, job: Job) -> None:
        """Put a job at the end; one without a Run has nothing to send and only waits for the model."""
        lane = self.lanes[job.model]
        if lane.start_at_s is not None:
            job.backoff_s = max(0.0, lane.start_at_s - job.arrived_s)  # it shares what is left of it
        self.alive[job.id] = job
        insort(self._deadlines, (job.deadline_s, job.id))
        lane.add(job)

    def next(self, model: str, slots: int, last_id: int | None = None) -> Job | None:
        """The job for `model` to send now, moved to `held`; None when there is no room, or none that may go."""
        lane = self.lanes[model]
        if lane.suspects:
            if self.held:
                return None
        else:
            alone = any(job.suspect for job in self.held.values())
            if not lane.waiting or alone or len(self.held) >= slots:
                return None
            job_id = lane.waiting[0].id
            if last_id is not None and job_id > last_id:
                return None
            rivals = self.rivals(model, job_id)
            if not all(rival.may_be_overtaken for rival in rivals):
                return None
            for rival in rivals:
                rival.note_overtaker(job_id)
        job = lane.pop()
        self.held[job.id] = job
        return job

    def rivals(self, model: str, last_id: int | None = None) -> list[Lane]:
        """The lanes whose first one came by `last_id` and waits for another model than this to be started."""
        return [lane for other, lane in self._startable(last_id) if other != model]

    def turn(self, last_id: int | None = None) -> str | None:
        """The model to start when there is no worker: that of the first one whose model need not be held back."""
        startable = self._startable(last_id)
        return min(startable, key=lambda one: one[1].first_id or 0)[0] if startable else None

    def _startable(self, last_id: int | None) -> list[tuple[str, Lane]]:
        return [
            (model, lane)
            for model, lane in self.lanes.items()
            if lane.start_at_s == AT_ONCE
            and (first_id := lane.first_id) is not None
            and (last_id is None or first_id <= last_id)
        ]

    def answered(self, job: Job) -> None:
        """Take an unanswered job out, wherever it waits. A held one keeps its slot until `released`."""
        job.answered = True
        del self.alive[job.id]
        del self._deadlines[bisect_left(self._deadlines, (job.deadline_s, job.id))]
        self.lanes[job.model].remove(job)

    def released(self, job_id: int) -> Job | None:
        """The worker has let go of a job; None when it did not hold it."""
        return self.held.pop(job_id, None)

    def bury(self, model: str, *, from_outside: bool) -> list[Job]:
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
        self.lanes[model].suspect([job for job in held if job not in guilty])
        return guilty

    def expired(self, now: float) -> list[Job]:
        """The unanswered jobs whose deadline has passed."""
        return [self.alive[job_id] for _, job_id in takewhile(lambda one: one[0] <= now, self._deadlines)]

    def next_deadline_s(self) -> float | None:
        return self._deadlines[0][0] if self._deadlines else None

    def next_start(self) -> tuple[float, str] | None:
        """When the next model that is held back may be started, and which one that is."""
        starts = ((lane.start_at_s, model) for model, lane in self.lanes.items())
        return min(((at_s, model) for at_s, model in starts if at_s is not None and at_s != AT_ONCE), default=None)

    def postpone(self, since: float, now: float) -> None:
        """Time between `since` and now does not count against anybody's deadline."""
        for job in self.alive.values():
            job.deadline_s += now - max(since, job.arrived_s)
        self._deadlines = sorted((job.deadline_s, job.id) for job in self.alive.values())

    def hold_back(self, now: float, present: str | None, not_before_s: Callable[[str], float]) -> None:
        """Say of each model from when on it may be started. `present` is the one that has a process already."""
        for model, lane in self.lanes.items():
            if model == present or lane.first_id is None:
                lane.start_at_s = None
            elif lane.start_at_s is None:
                delay_s = self._charge_backoff(model, max(0.0, not_before_s(model) - now))
                lane.start_at_s = now + delay_s if delay_s > 0 else AT_ONCE
            elif now >= lane.start_at_s:
                lane.start_at_s = AT_ONCE

    def _charge_backoff(self, model: str, wanted_s: float) -> float:
        """How long those who want `model` can be made to wait before its next start; it is noted on each of them."""
        if wanted_s <= 0:
            return 0.0
        waiting = self.wanting(model)
        delay_s = min([wanted_s, *(MAX_BACKOFF_S - job.backoff_s for job in waiting)])
        for job in waiting:
            job.backoff_s += delay_s
        return delay_s

    def wanting(self, model: str) -> list[Job]:
        """Every unanswered job for `model`, held ones too."""
        return [job for job in self.alive.values() if job.model == model]

    def busy_until(self, last_id: int) -> bool:
        """Whether a job up to `last_id` is unanswered, or the worker holds anything."""
        return bool(self.held) or next(iter(self.alive), last_id + 1) <= last_id
