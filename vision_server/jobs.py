"""The queue of caption requests, as the API sees it: admit or refuse, wait, answer.

`open_queue` makes one. A request is admitted by its headers, before its body is read: `admit` gives it a place.
Behind the queue stands one worker process with one model at a time; who runs when, for which model, and what becomes of
a dead worker's requests is decided in `worker.supervisor`. This file knows nothing of HTTP, and not what a task means.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

from .errors import CannotServe, QueueFull
from .quotas import ByteBudget, Pace
from .worker.lane import Job
from .worker.life import Limits
from .worker.protocol import DEFAULT_OPTIONS, Done, Hello, Options, Run
from .worker.runner import WORKER, Runner
from .worker.status import Room, Status, snapshot

log = logging.getLogger(__name__)

__all__ = ["Hello", "Model", "Options", "Outcome", "Place", "Queue", "Request", "Status", "open_queue"]

_FIRST_LOAD_S = 10.0  # a guess, until there was one


@dataclass(frozen=True)
class Model:
    """What may be asked for as `hello.model`: what its worker is told, and how long that may be idle, in seconds.

    A negative time is for ever, 0 until nothing is left to do.
    """

    hello: Hello
    idle_timeout_s: float = 300.0


@dataclass(frozen=True)
class Request:
    """One picture and one question. `request_id` is for people to read and need not be unique."""

    request_id: str
    model: str  # the name of one that the queue was opened with
    image: bytes  # the encoded file; the worker decodes it
    task: str  # a token such as "<CAPTION>"
    text: str = ""
    region: str | tuple[float, ...] | None = None  # four "<loc_n>", or x1, y1, x2, y2 in upright pixels
    options: Options = DEFAULT_OPTIONS
    keep_alive_s: float | None = None  # idle time afterwards; None = the model's, 0 = none, negative = forever


@dataclass(frozen=True)
class Outcome:
    """What the model said. `timings_ms` has queue, load, decode, encode, generate."""

    text: str  # raw: location tokens included
    width: int  # of the upright picture, pixels
    height: int
    finish_reason: str  # "stop" or "length"
    prompt_tokens: int
    new_tokens: int
    timings_ms: dict[str, float]
    banned: tuple[str, ...] = ()  # phrases that the checkpoint would have an answer of grounding leave out


@dataclass(eq=False)
class Place:
    """What an admitted request takes until it is answered or given up. Its deadline is counted from `since_s`."""

    since_s: float
    bytes: int


class Queue:
    """First in, first out, into the free slots of one worker. Made by `open_queue`; used from one event loop."""

    def __init__(self, runner: Runner, capacity: int, capacity_bytes: int, request_timeout_s: float) -> None:
        self.capacity = capacity  # how many may wait
        self._runner = runner
        self._supervisor = runner.supervisor
        self._default = next(iter(runner.hellos))
        self._request_timeout_s = request_timeout_s
        self._ids = itertools.count(1)
        self._pace = Pace()
        self._budget = ByteBudget(capacity_bytes)
        self._arriving: set[Place] = set()  # those whose body is being read

    @property
    def depth(self) -> int:
        """Requests that wait."""
        return self._supervisor.line.depth

    @property
    def in_flight(self) -> int:
        """Requests the worker holds."""
        return len(self._supervisor.line.held)

    def retry_after_s(self) -> int:
        """Waiting requests over the recent completion rate, 1 to 120 s."""
        unknown_s = self._supervisor.life.last_load_s or _FIRST_LOAD_S
        return self._pace.retry_after_s(self.depth + len(self._arriving), self._runner.now(), unknown_s)

    @contextmanager
    def admit(self, expected_bytes: int) -> Iterator[Place]:
        """A place for a request of which only the headers are here, and room for its body; given back on leaving.

        Those who arrive count like those who wait, less the slots that the worker has free. Raises QueueFull,
        CannotServe.
        """
        self._check_open()
        line = self._supervisor.line
        free_slots = 0 if line.waiting else max(0, self._supervisor.life.slots - len(line.held))
        if line.waiting + len(self._arriving) >= self.capacity + free_slots:
            raise self._full()
        place = Place(self._runner.now(), 0)
        self.resize(place, expected_bytes)
        self._arriving.add(place)
        try:
            yield place
        finally:
            self.forgo(place)

    def resize(self, place: Place, size_bytes: int) -> None:
        """The request turns out to take so many bytes. Raises QueueFull where it would grow beyond what there is."""
        if not self._budget.take(size_bytes, instead_of_bytes=place.bytes):
            raise QueueFull(
                f"The pictures that are here take all {self._budget.capacity_bytes / (1 << 20):g} MiB there are. "
                "Try again later.",
                retry_after_s=self.retry_after_s(),
            )
        place.bytes = size_bytes

    def forgo(self, place: Place) -> None:
        """The request turns out to want nothing of the queue, and has its answer from elsewhere."""
        self._arriving.discard(place)
        self.resize(place, 0)

    def _check_open(self) -> None:
        if self._supervisor.draining:
            raise CannotServe("The server is shutting down.", retry_after_s=30)

    def _full(self) -> QueueFull:
        words = f"All {self.capacity} places in the queue are taken. Try again later."
        return QueueFull(words, retry_after_s=self.retry_after_s())

    def expect(self) -> AbstractContextManager[None]:
        """While a request that may be admitted arrives: a worker process starts meanwhile, if there is none."""
        return self._runner.expect()

    async def submit(self, request: Request, place: Place | None = None) -> Outcome:
        """Wait for the answer. Cancelling the awaiting task takes the request back, wherever it is.

        `place` is what `admit` gave for it; without one it is admitted now. Slots that were free then may be gone, so
        the places are counted again. Raises QueueFull, DeadlinePassed, WorkerCrash, CannotServe (LoadFailed,
        OutOfMemory) and what is wrong with the picture, the input or the options.
        """
        if place is None:
            with self.admit(len(request.image)) as place:
                return await self.submit(request, place)
        self._arriving.discard(place)
        self._check_open()
        if self._supervisor.line.waiting >= self.capacity:  # the retried were admitted once; they take nobody's place
            raise self._full()
        self.resize(place, len(request.image))
        downloading = self._supervisor.life.transfer is not None  # time in which nobody's deadline comes nearer
        job = self._job(request.model, request.keep_alive_s, None if downloading else place.since_s)
        job.run = Run(
            job.id, request.request_id, request.task, request.text, request.region, request.options, request.image
        )
        log.debug("accepted, %d wait before it", self.depth, extra={"request_id": request.request_id})
        done = await self._runner.ask(job, self._supervisor.submit)
        assert done is not None
        self._pace.note_completion(self._runner.now())
        return _outcome(done, job)

    async def load(self, model: str, keep_alive_s: float | None = None) -> None:
        """Load `model` as soon as its turn comes; returns when it is ready, whatever has to be downloaded for it.

        Raises QueueFull, LoadFailed, CannotServe, DeadlinePassed.
        """
        self._check_open()
        if self._supervisor.line.loaders >= self.capacity:
            raise self._full()
        await self._runner.ask(self._job(model, keep_alive_s), self._supervisor.submit)

    async def unload(self, force: bool = False, model: str | None = None) -> None:
        """End the worker, where it has `model` if one is named. Raises Busy while there is work.

        `force` finishes what was asked before it first.
        """
        now = self.status()
        if model is not None and (now.model != model or now.state in ("unloaded", "failed")):
            return
        await self._runner.ask(self._job(self._default), partial(self._supervisor.unload, force=force))

    def status(self, request_id: str | None = None) -> Status:
        """A snapshot. Never loads anything, never touches the idle clock. `request_id`: of the queue only this id."""
        runner, budget = self._runner, self._budget
        spare_pid = runner.spare.pid if runner.spare else None
        room = Room(self.capacity, budget.capacity_bytes, len(self._arriving), budget.used_bytes)
        return snapshot(runner.supervisor, runner.hellos, runner.child, spare_pid, room, runner.now(), request_id)

    def announce_leaving(self) -> None:
        """Have `status` say that this will soon drain. Nothing else changes."""
        self._supervisor.leaving = True

    async def drain(self) -> None:
        """Stop admitting (CannotServe), finish what is here within `shutdown_grace_s`, end the worker."""
        await self._runner.ask(self._job(self._default), self._supervisor.drain)

    async def aclose(self) -> None:
        """End the worker now; whatever still waits gets CannotServe."""
        await self._runner.ask(self._job(self._default), self._supervisor.close)
        await self._runner.finish()

    def _job(self, model: str, keep_alive_s: float | None = None, since_s: float | None = None) -> Job:
        """`since_s` is when its time began to count, if not now."""
        now = self._runner.now()
        deadline_s = (now if since_s is None else since_s) + self._request_timeout_s
        return Job(next(self._ids), model, None, now, deadline_s, keep_alive_s)


def _outcome(done: Done, job: Job) -> Outcome:
    seconds = {
        "queue": job.sent_s - job.arrived_s - job.load_s,
        "load": job.load_s,
        "decode": done.decode_s,
        "encode": done.encode_s,
        "generate": done.generate_s,
    }
    return Outcome(
        text=done.text,
        width=done.width,
        height=done.height,
        finish_reason=done.finish_reason,
        prompt_tokens=done.prompt_tokens,
        new_tokens=done.new_tokens,
        timings_ms={name: round(value * 1000, 3) for name, value in seconds.items()},
        banned=done.banned,
    )


@asynccontextmanager
async def open_queue(
    models: Sequence[Model],
    *,
    max_queue: int = 256,
    max_queue_bytes: int = 512 << 20,
    request_timeout_s: float = 300.0,
    load_stall_timeout_s: float = 120.0,
    step_stall_timeout_s: float = 120.0,
    shutdown_grace_s: float = 30.0,
    wait_for_download: bool = True,
    standby: bool = False,
    command: Sequence[str] = WORKER,
) -> AsyncIterator[Queue]:
    """The queue and, when asked, its worker; nothing is started before the first request. Leaving ends both.

    `models` is what may be asked for, the default first. Without `wait_for_download` a request whose model is being
    downloaded gets CannotServe, and the download goes on. With `standby` a process that will become the next worker is
    there from the beginning. `command` is the worker.
    """
    limits = Limits(load_stall_timeout_s, step_stall_timeout_s, shutdown_grace_s, wait_for_download)
    hellos = {model.hello.model: model.hello for model in models}
    idle_timeouts_s = {model.hello.model: model.idle_timeout_s for model in models}
    runner = Runner(hellos, idle_timeouts_s, limits, command, standby=standby)
    queue = Queue(runner, max_queue, max_queue_bytes, request_timeout_s)
    try:
        runner.begin()
        yield queue
    finally:
        await queue.aclose()
