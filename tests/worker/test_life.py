"""What the life of the worker counts, by cause; what it does besides is tested through the supervisor."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.worker.world import CRASH, ENDED, KILLED, World, ready_world
from vision_server.worker.process import Exit


def _idle(world: World) -> None:
    world.advance(5)


def _asked(world: World) -> None:
    world.unload()


def _hang(world: World) -> None:
    world.submit()
    world.advance(1e4)


def _garbage(world: World) -> None:
    world.supervisor.on_garbage("junk", world.now)


def _nothing(_: World) -> None: ...


@pytest.mark.parametrize(
    ("before", "end", "unloads", "restarts"),
    [
        (_idle, ENDED, {"idle": 1}, {}),
        (_idle, CRASH, {"idle": 1}, {}),
        (_asked, ENDED, {"unload": 1}, {}),
        (_hang, CRASH, {}, {"hang": 1}),
        (_garbage, ENDED, {}, {"garbage": 1}),
        (_nothing, CRASH, {}, {"SIGSEGV": 1}),
        (_nothing, KILLED, {}, {"SIGKILL": 1}),
        (_nothing, ENDED, {}, {"exit": 1}),
        (_nothing, Exit(3, from_outside=False), {}, {"exit": 1}),
        (_nothing, Exit(-1000, from_outside=False), {}, {"exit": 1}),
    ],
)
def test_ends_are_counted_by_their_cause(
    before: Callable[[World], None], end: Exit, unloads: dict[str, int], restarts: dict[str, int]
) -> None:
    world = ready_world(idle_timeout_s=5)
    before(world)
    world.die(end)
    life = world.supervisor.life
    assert (dict(life.unloads_by), dict(life.restarts_by)) == (unloads, restarts)
    assert (life.unloads, life.restarts) == (len(unloads), len(restarts))


def test_the_time_of_all_loads_is_added_up() -> None:
    world = World()
    for seconds in (3, 4):
        world.submit(run=False)
        world.advance(seconds)
        world.ready()
        world.unload()
        world.die(ENDED)
    life = world.supervisor.life
    assert (life.loads, life.loading_s, life.last_load_s) == (2, 7, 4)
