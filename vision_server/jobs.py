"""The queue of caption requests, as the API sees it (interface; the machinery behind it follows)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vision_server.worker.protocol import Options


@dataclass(frozen=True)
class Request:
    """One picture and one question. `request_id` is for logs only and need not be unique."""

    request_id: str
    image: bytes  # the encoded file; the child decodes it
    task: str  # a token such as "<CAPTION>"
    text: str = ""
    region: str | tuple[float, ...] | None = None  # four "<loc_n>", or x1, y1, x2, y2 in upright pixels
    options: Options = Options()
    keep_alive_s: float | None = None  # idle time after this request; None = the setting, 0 = none, negative = forever


@dataclass(frozen=True)
class Outcome:
    """What the model said. `timings_ms` has queue, load, decode, encode, generate."""

    text: str  # raw: location tokens included
    width: int  # of the upright picture, pixels
    height: int
    finish_reason: str  # "stop" or "length"
    prompt_tokens: int
    new_tokens: int
    timings_ms: dict[str, float] = field(default_factory=dict)


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

    @property
    def depth(self) -> int:
        """Requests that wait."""
        raise NotImplementedError

    @property
    def capacity(self) -> int:
        """How many may wait."""
        raise NotImplementedError

    @property
    def in_flight(self) -> int:
        """Requests the worker holds."""
        raise NotImplementedError

    def retry_after_s(self) -> int:
        """Waiting requests over the recent completion rate, 1 to 120 s."""
        raise NotImplementedError

    def check_admission(self) -> None:
        """Raise QueueFull or CannotServe as `submit` would now; call it before reading or decoding a body."""
        raise NotImplementedError

    async def submit(self, request: Request) -> Outcome:
        """Wait for the answer. Cancelling the awaiting task takes the request back, wherever it is."""
        raise NotImplementedError

    async def load(self, keep_alive_s: float | None = None) -> None:
        """Load the model now; returns when it is ready. Raises LoadFailed, CannotServe, DeadlinePassed."""
        raise NotImplementedError

    async def unload(self, force: bool = False) -> None:
        """End the worker. Busy (409) while there is work; `force` finishes what was asked before it first."""
        raise NotImplementedError

    def status(self) -> Status:
        """A snapshot. Never loads anything, never touches the idle clock."""
        raise NotImplementedError

    async def drain(self) -> None:
        """Stop admitting (CannotServe), finish what is here within `shutdown_grace_s`, end the worker."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """End the worker now; whatever still waits gets CannotServe."""
        raise NotImplementedError


@asynccontextmanager
async def open_queue(
    *,
    directory: Path,
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    idle_timeout_s: float = 300.0,
    max_queue: int = 256,
    max_batch: int | None = None,
    request_timeout_s: float = 300.0,
    load_stall_timeout_s: float = 120.0,
    step_stall_timeout_s: float = 120.0,
    shutdown_grace_s: float = 30.0,
    threads: int | None = None,
    log_level: str = "INFO",
    command: Sequence[str] | None = None,
) -> AsyncIterator[Queue]:
    """The queue and, when asked, its worker; nothing is started before the first request. Leaving closes both."""
    raise NotImplementedError
    yield Queue()
