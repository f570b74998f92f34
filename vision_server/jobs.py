"""The queue of caption requests, as the API sees it: admit or refuse, wait, answer.

`open_queue` makes one. Behind it stands one worker process; who runs when and what becomes of a dead worker's requests
is decided in `worker.supervisor`. This file knows nothing of HTTP, and not what a task means.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Literal

from .errors import CannotServe, QueueFull
from .worker.life import Limits
from .worker.line import Job
from .worker.protocol import DEFAULT_OPTIONS, Done, Hello, Options, Run
from .worker.runner import WORKER, Runner

__all__ = ["Options", "Outcome", "Queue", "Request", "Status", "open_queue"]

_RATE_WINDOW_S = 60.0
_RETRY_AFTER_MAX_S = 120  # the OpenAI SDK does not retry at all when it is told to wait longer


@dataclass(frozen=True)
class Request:
    """One picture and one question. `request_id` is for logs only and need not be unique."""

    request_id: str
    image: bytes  # the encoded file; the worker decodes it
    task: str  # a token such as "<CAPTION>"
    text: str = ""
    region: str | tuple[float, ...] | None = None  # four "<loc_n>", or x1, y1, x2, y2 in upright pixels
    options: Options = DEFAULT_OPTIONS
    keep_alive_s: float | None = None  # idle time afterwards; None = the setting, 0 = none, negative = forever


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


@dataclass(frozen=True)
class Status:
    """A snapshot for GET /status; `dataclasses.asdict` gives the body."""

    state: str  # unloaded, loading, ready, unloading, failed
    model: str
    device: str  # the worker's once it is ready ("cuda:0"), before that the setting ("auto")
    dtype: str
    queue_depth: int
    queue_capacity: int
    in_flight: int
    idle_unload_in_s: float | None  # None while in use, not loaded, or kept forever
    load_phase: str | None  # None unless loading
    load_bytes_done: int
    load_bytes_total: int
    loads: int
    unloads: int
    restarts: int  # deaths of the worker that nobody asked for
    last_load_s: float | None
    worker_pid: int | None
    worker_rss_bytes: int | None
    worker_device_bytes: int | None  # GPU memory the worker says it holds
    draining: bool
    failure: str | None  # why the last load failed; cleared by the next success


class Queue:
    """First in, first out, into the free slots of one worker. Made by `open_queue`; used from one event loop."""

    def __init__(self, runner: Runner, hello: Hello, capacity: int, request_timeout_s: float) -> None:
        self.capacity = capacity  # how many may wait
        self._runner = runner
        self._supervisor = runner.supervisor
        self._hello = hello
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
        waiting = len(self._supervisor.line.waiting)  # the retried were admitted once; they take nobody's place
        if waiting >= self.capacity and not self._supervisor.has_room:
            raise QueueFull(f"All {self.capacity} places in the queue are taken.", retry_after_s=self.retry_after_s())

    async def submit(self, request: Request) -> Outcome:
        """Wait for the answer. Cancelling the awaiting task takes the request back, wherever it is.

        Raises QueueFull, DeadlinePassed, WorkerCrash, CannotServe (LoadFailed, OutOfMemory) and what is wrong with the
        picture, the input or the options.
        """
        self.check_admission()
        job = self._job(request.keep_alive_s)
        job.run = Run(
            job.id, request.request_id, request.task, request.text, request.region, request.options, request.image
        )
        done = await self._runner.ask(job, self._supervisor.submit)
        assert done is not None
        self._completions.append(self._runner.now())
        return _outcome(done, job)

    async def load(self, keep_alive_s: float | None = None) -> None:
        """Load the model now; returns when it is ready. Raises LoadFailed, CannotServe, DeadlinePassed."""
        if self._supervisor.draining:
            raise CannotServe("The server is shutting down.", retry_after_s=30)
        await self._runner.ask(self._job(keep_alive_s), self._supervisor.submit)

    async def unload(self, force: bool = False) -> None:
        """End the worker. Busy (409) while there is work; `force` finishes what was asked before it first."""
        await self._runner.ask(self._job(), partial(self._supervisor.unload, force=force))

    def status(self) -> Status:
        """A snapshot. Never loads anything, never touches the idle clock."""
        supervisor, child = self._supervisor, self._runner.child
        life = supervisor.life
        idle_at_s, progress, loading = supervisor.idle_at_s, life.progress, supervisor.state == "loading"
        device_bytes = progress.memory_bytes if progress else life.ready.memory_bytes if life.ready else None
        return Status(
            state=supervisor.state,
            model=self._hello.model,
            device=life.ready.device if life.ready else self._hello.device,
            dtype=life.ready.dtype if life.ready else self._hello.dtype,
            queue_depth=self.depth,
            queue_capacity=self.capacity,
            in_flight=self.in_flight,
            idle_unload_in_s=None if idle_at_s is None else max(0.0, idle_at_s - self._runner.now()),
            load_phase=supervisor.load_phase,
            load_bytes_done=progress.done if progress and loading else 0,
            load_bytes_total=progress.total if progress and loading else 0,
            loads=life.loads,
            unloads=life.unloads,
            restarts=life.restarts,
            last_load_s=life.last_load_s,
            worker_pid=child.pid if child else None,
            worker_rss_bytes=child.rss_bytes() if child else None,
            worker_device_bytes=device_bytes,
            draining=supervisor.draining,
            failure=str(supervisor.failure) if supervisor.failure else None,
        )

    async def drain(self) -> None:
        """Stop admitting (CannotServe), finish what is here within `shutdown_grace_s`, end the worker."""
        await self._runner.ask(self._job(), self._supervisor.drain)

    async def aclose(self) -> None:
        """End the worker now; whatever still waits gets CannotServe."""
        await self._runner.ask(self._job(), self._supervisor.close)
        await self._runner.finish()

    def _job(self, keep_alive_s: float | None = None) -> Job:
        now = self._runner.now()
        return Job(next(self._ids), None, now, now + self._request_timeout_s, keep_alive_s)


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
    )


def _absolute(path: Path | None) -> str | None:
    """The worker's working directory is another one than ours."""
    return None if path is None else str(path.absolute())


@asynccontextmanager
async def open_queue(
    *,
    directory: Path | None,
    model: str,
    repository: str | None = None,
    revision: str = "main",
    token: str | None = None,
    cache: Path | None = None,
    offline: bool = False,
    endpoint: str | None = None,
    download_stall_timeout_s: float = 60.0,
    adapter: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    idle_timeout_s: float = 300.0,
    max_queue: int = 256,
    max_batch: int | Literal["auto"] = "auto",
    request_timeout_s: float = 300.0,
    load_stall_timeout_s: float = 120.0,
    step_stall_timeout_s: float = 120.0,
    shutdown_grace_s: float = 30.0,
    max_pixels: int = 50_000_000,
    threads: int | None = None,
    log_level: str = "info",
    command: Sequence[str] = WORKER,
) -> AsyncIterator[Queue]:
    """The queue and, when asked, its worker; nothing is started before the first request. Leaving ends both.

    `max_batch` is how many requests are decoded together. `threads` is for the CPU: None takes every core the worker
    may use. `command` is the worker.
    """
    hello = Hello(
        directory=_absolute(directory),
        model=model,
        device=device,
        dtype=dtype,
        max_batch=None if max_batch == "auto" else max_batch,
        threads=threads,
        max_pixels=max_pixels,
        log_level=log_level,
        repository=repository,
        revision=revision,
        token=token,
        cache=_absolute(cache),
        offline=offline,
        endpoint=endpoint,
        stall_timeout_s=download_stall_timeout_s,
        adapter=_absolute(adapter),
    )
    limits = Limits(idle_timeout_s, load_stall_timeout_s, step_stall_timeout_s, shutdown_grace_s)
    queue = Queue(Runner(hello, limits, command), hello, max_queue, request_timeout_s)
    try:
        yield queue
    finally:
        await queue.aclose()
