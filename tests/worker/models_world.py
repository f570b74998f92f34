"""Several models before one worker: a World of three, and what its worker does next. Not a test."""

from __future__ import annotations

from tests.worker.world import ENDED, KILLED, World
from vision_server.worker.lane import Job
from vision_server.worker.life import Limits

MODELS = {"a": 300.0, "b": 20.0, "c": 300.0}


def world_of(*, slots: int = 2, limits: Limits | None = None) -> World:
    """The worker is ready with model a."""
    world = World(limits, models=MODELS)
    world.submit(run=False, model="a")
    world.ready(slots)
    return world


def ids(jobs: list[Job]) -> list[int]:
    return [job.id for job in jobs]


def finish(world: World) -> None:
    """The worker answers everything that it has."""
    while held := list(world.supervisor.line.held.values()):
        world.done(held[0])


def hold_back(world: World) -> None:
    """The worker dies until its model has to wait for the next one."""
    world.die(KILLED)
    world.ready()
    world.die(KILLED)
    assert world.load_phase == "back-off"


def swap(world: World, slots: int = 2) -> None:
    """The worker was told to end, does, and the next one is ready."""
    assert world.stopping
    assert not world.killed
    world.die(ENDED)
    world.ready(slots)
