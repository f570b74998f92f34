"""How many requests for the worker's model may go before one that waits for another."""

from __future__ import annotations

from tests.worker.models_world import finish, ids, swap, world_of
from tests.worker.world import ENDED


def test_eight_and_not_nine() -> None:
    world = world_of(slots=1)
    held = world.submit(model="a")
    other = world.submit(model="b")
    later = [world.submit(model="a") for _ in range(12)]
    while not world.stopping:
        finish(world)
    assert world.running == [held.id, *ids(later[:8])]
    swap(world)
    assert world.running == [other.id]
    world.done(other)
    swap(world, slots=9)
    assert world.running == ids(later[8:])


def test_they_are_counted_when_they_are_sent_however_many_slots_there_are() -> None:
    world = world_of(slots=64)
    held = world.submit(model="a")
    world.submit(model="b")
    later = [world.submit(model="a") for _ in range(12)]
    assert world.running == [held.id, *ids(later[:8])]
    for job in later[:8]:
        world.done(job)
    assert world.running == [held.id, *ids(later[:8])]
    assert not world.stopping
    world.done(held)
    assert world.stopping


def test_who_came_before_does_not_overtake() -> None:
    world = world_of(slots=1)
    earlier = [world.submit(model="a") for _ in range(20)]
    world.submit(model="b")
    later = [world.submit(model="a") for _ in range(9)]
    while not world.stopping:
        finish(world)
    assert world.running == ids([*earlier, *later[:8]])


def test_one_that_left_before_it_was_sent_does_not_count() -> None:
    world = world_of(slots=1)
    held = world.submit(model="a")
    world.submit(model="b")
    gone = [world.submit(model="a") for _ in range(5)]
    stay = [world.submit(model="a") for _ in range(9)]
    for job in gone:
        world.withdraw(job)
    while not world.stopping:
        finish(world)
    assert world.running == [held.id, *ids(stay[:8])]


def test_when_the_overtaken_one_leaves_the_count_is_that_of_the_next() -> None:
    world = world_of(slots=1)
    held, gone = world.submit(model="a"), world.submit(model="b")
    first = [world.submit(model="a") for _ in range(4)]
    while len(world.running) < 5:
        world.done(world.supervisor.line.held[world.running[-1]])
    other = world.submit(model="b")
    world.withdraw(gone)
    second = [world.submit(model="a") for _ in range(9)]
    while not world.stopping:
        finish(world)
    assert world.running == ids([held, *first, *second[:8]])
    swap(world)
    assert world.running == [other.id]


def test_a_third_model_is_not_overtaken_more_often_because_there_are_two_others() -> None:
    world = world_of(slots=1)
    world.submit(model="a")
    second, third = world.submit(model="b"), world.submit(model="c")
    for model in ("a", "b"):
        for _ in range(9):
            world.submit(model=model)
    while not world.stopping:
        finish(world)
    assert len(world.running) == 1 + 8
    swap(world, slots=1)
    finish(world)
    assert world.running == [second.id]
    swap(world, slots=1)
    assert world.running == [third.id]


def test_a_loader_is_overtaken_no_more_often_than_a_request() -> None:
    world = world_of(slots=1)
    world.submit(model="a")
    loader = world.submit(run=False, model="b")
    for _ in range(12):
        world.submit(model="a")
    while not world.stopping:
        finish(world)
    assert len(world.running) == 1 + 8
    swap(world)
    assert loader.answered


def test_an_endless_stream_starves_nobody() -> None:
    world = world_of(slots=4)
    for _ in range(4):
        world.submit(model="a")
    other = world.submit(model="b")
    turns = 0
    while not other.answered:
        turns += 1
        assert turns < 50
        world.submit(model="a")
        if world.stopping and world.children:
            world.die(ENDED)
            world.ready(slots=4)
        elif held := list(world.supervisor.line.held.values()):
            world.done(held[0])
    assert turns <= 4 + 8 + 2
