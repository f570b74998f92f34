"""How long a server whose load failed is to be left out by those who share requests out; under a fake clock."""

from __future__ import annotations

import pytest

from tests.worker.models_world import MODELS
from tests.worker.world import CRASH, ENDED, TOY, World
from vision_server.worker.protocol import LOAD, Failed


def unready_s(world: World, model: str = TOY) -> float:
    return max(0.0, world.supervisor.setbacks[model].unready_until_s - world.now)


def fail_a_load(world: World, model: str = TOY) -> None:
    world.submit(model=model)
    world.frame(Failed(LOAD, "bad_checkpoint", "config.json is missing."))
    world.die(ENDED)


def load(world: World) -> None:
    job = world.submit()
    world.advance(5)
    world.ready()
    world.done(job)


def test_it_is_left_out_for_a_while_and_each_time_for_longer() -> None:
    world = World()
    assert unready_s(world) == 0
    for expected_s in (30, 60, 120, 240, 480, 600, 600):
        fail_a_load(world)
        assert unready_s(world) == expected_s
        world.advance(expected_s - 0.5)
        assert unready_s(world) == 0.5
        world.advance(0.5)
        assert (unready_s(world), world.state, str(world.failure)) == (0, "failed", "config.json is missing.")


def test_a_success_ends_it_at_once_and_the_next_failure_is_a_first_one() -> None:
    world = World()
    fail_a_load(world)
    world.advance(30)
    fail_a_load(world)
    assert unready_s(world) == 60
    load(world)
    assert (unready_s(world), world.failure) == (0, None)
    world.unload()
    world.die(ENDED)
    fail_a_load(world)
    assert unready_s(world) == 30


def test_a_worker_that_keeps_dying_while_it_loads_counts_once() -> None:
    world = World()
    world.submit()
    for _ in range(3):
        assert unready_s(world) == 0
        world.advance(5)
        world.die(CRASH)
    assert unready_s(world) == 30


def test_a_process_that_cannot_be_started_counts() -> None:
    world = World()
    world.submit()
    world.children -= 1
    world.supervisor.on_spawn_failed(world.now)
    assert unready_s(world) == 30


@pytest.mark.parametrize(("model", "other"), [("a", "b"), ("b", "a")])
def test_each_model_has_its_own(model: str, other: str) -> None:
    world = World(models=MODELS)
    fail_a_load(world, model)
    assert (unready_s(world, model), unready_s(world, other)) == (30, 0)
