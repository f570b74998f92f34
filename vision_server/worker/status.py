"""What the worker, its models and the queue are at, for people to look at. Reads, decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import VisionError
from .life import Phase
from .process import Child
from .protocol import Hello
from .supervisor import Supervisor


@dataclass(frozen=True)
class Status:
    """A snapshot; `dataclasses.asdict` gives the body of GET /status."""

    state: str  # unloaded, loading, ready, unloading, failed
    model: str  # the worker's, or else the default one
    models: tuple[str, ...]  # all that are served, the default first
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
    standby_pid: int | None  # a process without a model and without a device, which the next worker will be
    draining: bool
    failure: str | None  # why the last load of `model` failed; cleared by its next success
    failures: dict[str, str]  # the same for every model whose last load failed


def snapshot(
    supervisor: Supervisor,
    hellos: Mapping[str, Hello],
    child: Child | None,
    spare_pid: int | None,
    capacity: int,
    now: float,
) -> Status:
    """`hellos` has every model that is served, the default first; `capacity` is how many requests may wait."""
    life, idle_at_s, state = supervisor.life, supervisor.idle.at_s, state_of(supervisor)
    hello, progress, ready, loading = hellos[model_of(supervisor)], life.progress, life.ready, state == "loading"
    failures = {model: setbacks.failure for model, setbacks in supervisor.setbacks.items()}
    failure = failure_of(supervisor)
    return Status(
        state=state,
        model=hello.model,
        models=tuple(hellos),
        device=ready.device if ready else hello.device,
        dtype=ready.dtype if ready else hello.dtype,
        queue_depth=supervisor.line.depth,
        queue_capacity=capacity,
        in_flight=len(supervisor.line.held),
        idle_unload_in_s=None if idle_at_s is None else max(0.0, idle_at_s - now),
        load_phase=load_phase_of(supervisor),
        load_bytes_done=progress.done if progress and loading else 0,
        load_bytes_total=progress.total if progress and loading else 0,
        loads=life.loads,
        unloads=life.unloads,
        restarts=life.restarts,
        last_load_s=life.last_load_s,
        worker_pid=child.pid if child else None,
        worker_rss_bytes=child.rss_bytes() if child else None,
        worker_device_bytes=progress.memory_bytes if progress else ready.memory_bytes if ready else None,
        standby_pid=spare_pid,
        draining=supervisor.draining,
        failure=str(failure) if failure else None,
        failures={model: str(failure) for model, failure in failures.items() if failure},
    )


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
