"""Ray: started here for one run and gone after it, or a cluster that runs; and the way of pictures through it.

It has its files in a folder of its own, which goes with it. `surroundings` is to be set up before this is imported.
"""

from __future__ import annotations

import contextlib
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vision_server.bulk.answering import Answering
from vision_server.bulk.asking import Asked
from vision_server.bulk.ledger import Begun, Ledger, Limits
from vision_server.bulk.places import first_line
from vision_server.bulk.pools import Pool
from vision_server.bulk.reading import read
from vision_server.bulk.samples import Rules
from vision_server.bulk.sources import Piece
from vision_server.bulk.tables import Answered, answered_rows
from vision_server.errors import CannotServe, VisionError

_STORE_BYTES = 1 << 30  # of shared memory for pictures on their way, where Ray is started here; less where less is free
_LEAST_STORE_BYTES = 96 << 20  # Ray takes no less than 75 MiB
_MOST_BLOCKS = 1000
_SHORT = 30  # characters: a socket's path, which Ray makes 64 longer, may have 107


@contextlib.contextmanager
def running(address: str | None, cores: int, gpus: int | None, free_bytes: int | None) -> Iterator[None]:
    """Ray is there. `cores` and `gpus` (None: as found) are what is offered where it is started. Raises CannotServe."""
    temp = None
    shared: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    try:
        if address is None:
            temp = Path(tempfile.mkdtemp(prefix="vision-", dir=_base()))
            store_bytes = max(_LEAST_STORE_BYTES, min(_STORE_BYTES, (free_bytes or 4 * _STORE_BYTES) // 4))
            ray.init(
                "local", num_cpus=cores, num_gpus=gpus, include_dashboard=False, object_store_memory=store_bytes,
                _temp_dir=str(temp), **shared,
            )  # fmt: skip
        else:
            ray.init(address, **shared)
    except BaseException as error:
        ray.shutdown()
        _remove(temp)
        if not isinstance(error, Exception):
            raise
        where = f"a Ray cluster at {address} cannot be used" if address else "Ray does not start"
        raise CannotServe(f"{where} ({type(error).__name__}: {first_line(error)}).") from None
    try:
        yield
    finally:
        ray.shutdown()
        _remove(temp)


def _remove(temp: Path | None) -> None:
    if temp is not None:
        shutil.rmtree(temp, ignore_errors=True)


def _base() -> str | None:
    return None if len(tempfile.gettempdir()) <= _SHORT else "/tmp"


def nodes() -> list[dict[str, float]]:
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


class RemoteBook:
    """The ledger in its actor, called from the engines'."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        made: Any = ray.remote(Ledger)
        self._actor = made.options(num_cpus=0, scheduling_strategy=here).remote(limits)

    def begin(self, batch: str) -> Begun:
        begun: Begun = ray.get(self._actor.begin.remote(batch))
        return begun

    def alone(self, batch: str, picture: str) -> None:
        ray.get(self._actor.alone.remote(batch, picture))

    def keep(self, batch: str, picture: str, rows: bytes) -> None:
        ray.get(self._actor.keep.remote(batch, picture, rows))

    def end(self, batch: str, answered: bool) -> None:
        ray.get(self._actor.end.remote(batch, answered))

    def deaths(self) -> int:
        return int(ray.get(self._actor.deaths.remote()))


def answers(
    pieces: Sequence[Piece], rules: Rules, load: Any, asked: Asked, pool: Pool, book: RemoteBook
) -> Iterator[list[Answered]]:
    """Rows as they come, in no order. `load` is called in each engine's actor. Raises VisionError."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    packed = [pickle.dumps(piece) for piece in pieces]
    dataset = ray.data.from_items(packed, override_num_blocks=min(len(packed), _MOST_BLOCKS))
    # Readers take no core: engines may have them all, and would wait for readers that wait for a core.
    dataset = dataset.map_batches(
        read, batch_size=1, batch_format="pyarrow", fn_kwargs={"rules": rules}, num_cpus=0,
        compute=TaskPoolStrategy(size=2 * pool.engines),
    )  # fmt: skip
    dataset = dataset.map_batches(
        Answering, batch_size=pool.batch, batch_format="pyarrow", fn_constructor_args=(load, asked, book),
        compute=ActorPoolStrategy(size=pool.engines), num_cpus=pool.cpus, num_gpus=pool.gpus or None,
    )  # fmt: skip
    try:
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield answered_rows(table)
    except Exception as error:
        raise _ours(error) from error


def _ours(error: BaseException) -> VisionError:
    """What an engine raised, or else what Ray says."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        following = getattr(following, "cause", None) or following.__cause__
    for one in reversed(seen):
        if isinstance(one, VisionError) and not isinstance(one, RayError):  # which Ray makes of ours, with a traceback
            return type(one)(str(one).partition("\n")[0])  # Ray adds advice
    if any("No module named" in str(one) for one in seen):
        return CannotServe("a machine of the cluster cannot import what it needs: install vision-server[ray] there.")
    last = seen[-1]
    return CannotServe(f"Ray gave up ({type(last).__name__}: {first_line(last)}).")
