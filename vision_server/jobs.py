"""The queue of caption requests, as the API sees it: admit or refuse, wait, answer.

`open_queue` makes one. Behind it stands one worker process with one model at a time; who runs when, for which model,
and what becomes of a dead worker's requests is decided in `worker.supervisor`. This file knows nothing of HTTP, and not
what a task means.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil

from .errors import CannotServe, QueueFull
from .worker.lane import Job
from .worker.life import Limits
from .worker.protocol import DEFAULT_OPTIONS, Done, Hello, Options, Run
from .worker.runner import WORKER, Runner
from .worker.status import Status, snapshot

__all__ = ["Hello", "Model", "Options", "Outcome", "Queue", "Request", "Status", "open_queue"]

_RATE_WINDOW_S = 60.0
_RETRY_AFTER_MAX_S = 120  # the OpenAI SDK does not retry at all when it is told to wait longer


@dataclass(frozen=True)
class Model:
    """What may be asked for as `hello.model`: what its worker is told, and how long that may be idle, in seconds.

    A negative time is for ever, 0 until nothing is left to do.
    """

    hello: Hello
    idle_timeout_s: float = 300.0


@dataclass(frozen=True)
class Request:
    """One picture and one question. `request_id` is for logs only and need not be unique."""

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


class Queue:
    """First in, first out, into the free slots of one worker. Made by `open_queue`; used from one event loop."""

    def __init__(self, runner: Runner, capacity: int, request_timeout_s: float) -> None:
        self.capacity = capacity  # how many may wait
        self._runner = runner
        self._supervisor = runner.supervisor
        self._default = next(iter(runner.hellos))
        self._request_timeout_s = request_timeout_s
        self._ids = itertools.count(1)
        self._completions: deque[float] = deque(maxlen=256)

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
        now = self._runner.now()
        recent = [at for at in self._completions if at > now - _RATE_WINDOW_S]
        if not recent:
            return min(_RETRY_AFTER_MAX_S, ceil(self._supervisor.life.last_load_s or 10))
        rate = len(recent) / max(now - recent[0], 1.0)
        return max(1, min(_RETRY_AFTER_MAX_S, ceil(self.depth / rate)))

    def check_admission(self) -> None:
        """Raise QueueFull or CannotServe as `submit` would now; call it before reading or decoding a body."""
        if self._supervisor.draining:
            raise CannotServe("The server is shutting down.", retry_after_s=30)
        if self._supervisor.line.waiting >= self.capacity:  # the retried were admitted once; they take nobody's place
            raise QueueFull(f"All {self.capacity} places in the queue are taken.", retry_after_s=self.retry_after_s())

    def expect(self) -> AbstractContextManager[None]:
        """While a request that may be admitted arrives: a worker process starts meanwhile, if there is none."""
        return self._runner.expect()

    async def submit(self, request: Request) -> Outcome:
        """Wait for the answer. Cancelling the awaiting task takes the request back, wherever it is.

        Raises QueueFull, DeadlinePassed, WorkerCrash, CannotServe (LoadFailed, OutOfMemory) and what is wrong with the
        picture, the input or the options.
        """
        self.check_admission()
        job = self._job(request.model, request.keep_alive_s)
        job.run = Run(
            job.id, request.request_id, request.task, request.text, request.region, request.options, request.image
        )
        done = await self._runner.ask(job, self._supervisor.submit)
        assert done is not None
        self._completions.append(self._runner.now())
        return _outcome(done, job)

    async def load(self, model: str, keep_alive_s: float | None = None) -> None:
        """Load `model` as soon as its turn comes; returns when it is ready, whatever has to be downloaded for it.

        Raises LoadFailed, CannotServe, DeadlinePassed.
        """
        if self._supervisor.draining:
            raise CannotServe("The server is shutting down.", retry_after_s=30)
        await self._runner.ask(self._job(model, keep_alive_s), self._supervisor.submit)

    async def unload(self, force: bool = False) -> None:
        """End the worker. Busy (409) while there is work; `force` finishes what was asked before it first."""
        await self._runner.ask(self._job(self._default), partial(self._supervisor.unload, force=force))

    def status(self) -> Status:
        """A snapshot. Never loads anything, never touches the idle clock."""
        runner = self._runner
        spare_pid = runner.spare.pid if runner.spare else None
        return snapshot(runner.supervisor, runner.hellos, runner.child, spare_pid, self.capacity, runner.now())

    async def drain(self) -> None:
        """Stop admitting (CannotServe), finish what is here within `shutdown_grace_s`, end the worker."""
        await self._runner.ask(self._job(self._default), self._supervisor.drain)

    async def aclose(self) -> None:
        """End the worker now; whatever still waits gets CannotServe."""
        await self._runner.ask(self._job(self._default), self._supervisor.close)
        await self._runner.finish()

    def _job(self, model: str, keep_alive_s: float | None = None) -> Job:
        now = self._runner.now()
        return Job(next(self._ids), model, None, now, now + self._request_timeout_s, keep_alive_s)


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
    queue = Queue(runner, max_queue, request_timeout_s)
    try:
        runner.begin()
        yield queue
    finally:
        await queue.aclose()
