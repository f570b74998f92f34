"""What the worker, its models and the queue are at, for people to look at. Reads, decides nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePath

from ..errors import VisionError
from .life import Phase
from .process import Child
from .protocol import Hello
from .supervisor import Supervisor

_MOST_SHOWN = 100  # a queue may have 100,000 places, and somebody may look every second


@dataclass(frozen=True)
class Waiting:
    """One request that waits; `position` counts from 1, in order of arrival and the retried first."""

    request_id: str
    model: str
    waits_s: float
    position: int


@dataclass(frozen=True)
class Room:
    """What may be here and what is: requests whose body is being read, and the bytes of all that arrive, wait, run."""

    capacity: int
    capacity_bytes: int
    arriving: int
    bytes: int


@dataclass(frozen=True)
class Status:
    """A snapshot; `dataclasses.asdict` gives the body of GET /status."""

    state: str  # unloaded, loading, ready, unloading, failed
    model: str  # the worker's, or else the default one
    models: tuple[str, ...]  # all that are served, the default first
    adapter: str | None  # the name of the folder that its adapter lies in
    device: str  # the worker's once it is ready ("cuda:0"), before that the setting ("auto")
    dtype: str
    queue_depth: int
    queue_capacity: int
    queue_bytes: int  # of bodies that arrive and pictures that are here
    queue_capacity_bytes: int
    queue: tuple[Waiting, ...]  # the first 100 who wait
    arriving: int  # requests whose body is being read
    in_flight: int
    in_flight_ids: tuple[str, ...]  # the request ids, of 100 at most
    idle_unload_in_s: float | None  # None while in use, not loaded, or kept forever
    load_phase: str | None  # None unless loading
    load_bytes_done: int
    load_bytes_total: int
    loads: int
    unloads: int
    unloads_by_cause: dict[str, int]  # idle, unload, shutdown, swap
    restarts: int  # deaths of the worker that nobody asked for
    restarts_by_cause: dict[str, int]  # hang, stall, garbage, exit, or the name of a signal
    loading_s: float  # how long all loads took together
    last_load_s: float | None
    worker_pid: int | None
    worker_rss_bytes: int | None
    worker_device_bytes: int | None  # GPU memory the worker says it holds
    standby_pid: int | None  # a process without a model and without a device, which the next worker will be
    leaving: bool  # it serves, but not for long: who shares out requests had better leave it out
    draining: bool
    failure: str | None  # why the last load of `model` failed; cleared by its next success
    failures: dict[str, str]  # the same for every model whose last load failed
    unready_s: dict[str, float]  # how much longer who shares out requests had better leave those out


def snapshot(
    supervisor: Supervisor,
    hellos: Mapping[str, Hello],
    child: Child | None,
    spare_pid: int | None,
    room: Room,
    now: float,
    request_id: str | None = None,
) -> Status:
    """`hellos` has every model that is served, the default first. `request_id` narrows the queue down to one id."""
    life, idle_at_s, state = supervisor.life, supervisor.idle.at_s, state_of(supervisor)
    held = supervisor.line.held
    hello, progress, ready, loading = hellos[model_of(supervisor)], life.progress, life.ready, state == "loading"
    failures = {model: setbacks.failure for model, setbacks in supervisor.setbacks.items()}
    unready_s = ((model, setbacks.unready_until_s - now) for model, setbacks in supervisor.setbacks.items())
    failure = failure_of(supervisor)
    return Status(
        state=state,
        model=hello.model,
        models=tuple(hellos),
        adapter=PurePath(hello.adapter).name if hello.adapter else None,
        device=ready.device if ready else hello.device,
        dtype=ready.dtype if ready else hello.dtype,
        queue_depth=supervisor.line.depth,
        queue_capacity=room.capacity,
        queue_bytes=room.bytes,
        queue_capacity_bytes=room.capacity_bytes,
        queue=tuple(islice(_queue(supervisor, now, request_id), _MOST_SHOWN)),
        arriving=room.arriving,
        in_flight=len(held),
        in_flight_ids=tuple(job.run.request_id for job in islice(held.values(), _MOST_SHOWN) if job.run),
        idle_unload_in_s=None if idle_at_s is None else max(0.0, idle_at_s - now),
        load_phase=load_phase_of(supervisor),
        load_bytes_done=progress.done if progress and loading else 0,
        load_bytes_total=progress.total if progress and loading else 0,
        loads=life.loads,
        unloads=life.unloads,
        unloads_by_cause=dict(life.unloads_by),
        restarts=life.restarts,
        restarts_by_cause=dict(life.restarts_by),
        loading_s=life.loading_s,
        last_load_s=life.last_load_s,
        worker_pid=child.pid if child else None,
        worker_rss_bytes=child.rss_bytes() if child else None,
        worker_device_bytes=progress.memory_bytes if progress else ready.memory_bytes if ready else None,
        standby_pid=spare_pid,
        leaving=supervisor.leaving,
        draining=supervisor.draining,
        failure=str(failure) if failure else None,
        failures={model: str(failure) for model, failure in failures.items() if failure},
        unready_s={model: left_s for model, left_s in unready_s if left_s > 0},
    )


def _queue(supervisor: Supervisor, now: float, request_id: str | None) -> Iterator[Waiting]:
    for position, job in enumerate(supervisor.line.in_order(), 1):
        if job.run is not None and request_id in (None, job.run.request_id):
            yield Waiting(job.run.request_id, job.model, round(now - job.arrived_s, 3), position)


def model_of(supervisor: Supervisor) -> str:
    """The worker's model; without a worker the one that is held back the shortest, or else the default."""
    held_back = supervisor.line.next_start()
    return supervisor.life.model or (held_back[1] if held_back else next(iter(supervisor.setbacks)))


def state_of(supervisor: Supervisor) -> str:
    """A row of the table in `supervisor`."""
    phase = supervisor.life.phase
    if phase is Phase.ENDING:
        return "unloading"
    if phase is Phase.READY:
        return "ready"
    if phase is Phase.STARTING or supervisor.line.alive:
        return "loading"
    return "unloaded" if failure_of(supervisor) is None else "failed"


def failure_of(supervisor: Supervisor) -> VisionError | None:
    """Why the last load of `model_of` failed; None when it did not."""
    return supervisor.setbacks[model_of(supervisor)].failure


def load_phase_of(supervisor: Supervisor) -> str | None:
    """What the loading is at, in the worker's words; None when nothing is being loaded."""
    if state_of(supervisor) != "loading":
        return None
    life = supervisor.life
    if life.phase is Phase.GONE:
        return "back-off"
    return life.progress.phase if life.progress else "starting"
