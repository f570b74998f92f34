"""Requests that may not wait for a download: they are refused, and it goes on all the same."""

from __future__ import annotations

import pytest

from tests.worker.models_world import MODELS, swap
from tests.worker.world import ENDED, World
from vision_server.worker.life import Limits
from vision_server.worker.protocol import LOAD, Failed

LIMITS = Limits(wait_for_download=False)


def test_who_waits_and_who_comes_is_refused_and_the_download_goes_on() -> None:
    world = World(LIMITS, models=MODELS)
    first = world.submit(model="b")
    assert not first.answered
    world.progress("download")
    assert world.code(first) == "unavailable"
    assert "just begun" in str(world.answers[first.id])
    world.progress("download", 100_000_000, 500_000_000)
    world.advance(10)
    world.progress("download", 200_000_000, 500_000_000)
    second = world.submit(model="b")
    error = world.answers[second.id]
    assert "model b is being downloaded: 200 of 500 MB" in str(error)
    assert error.retry_after_s == pytest.approx(30)  # type: ignore[union-attr]
    assert "in 30 s" in str(error)
    world.progress("weights")
    third = world.submit(model="b")
    assert not third.answered
    world.ready()
    assert world.running == [third.id]
    world.done(third)
    assert world.spawned == ["b"]


def test_when_nobody_comes_back_it_is_ready_and_idles_out() -> None:
    world = World(LIMITS, models=MODELS)
    world.submit(model="b")
    for done in range(5):
        world.progress("download", done, 5)
        world.advance(100)
    assert not world.supervisor.line.alive
    world.progress("weights")
    world.ready()
    assert world.state == "ready"
    world.advance(21)
    assert world.state == "unloading"


def test_a_loader_waits_for_the_end_of_it() -> None:
    world = World(LIMITS, models=MODELS)
    loader = world.submit(run=False, model="b")
    world.progress("download", 1, 5)
    assert not loader.answered
    world.ready()
    assert world.answers[loader.id] is None


def test_another_model_waits_until_the_download_has_come_to_its_end() -> None:
    world = World(LIMITS, models=MODELS)
    world.submit(model="b")
    world.progress("download", 1, 5)
    other = world.submit(model="a")
    assert not world.stopping
    world.progress("weights")
    assert not world.stopping
    world.ready()
    swap(world)
    assert world.running == [other.id]


def test_a_download_that_nobody_was_told_of_gives_way() -> None:
    world = World(LIMITS, models=MODELS)
    gone = world.submit(run=False, model="b")
    world.progress("download", 1, 5)
    world.submit(model="a")
    world.withdraw(gone)
    assert world.stopping


def test_a_failed_download_is_remembered_and_the_next_request_tries_again() -> None:
    world = World(LIMITS, models={"b": 20.0})
    world.submit(model="b")
    world.progress("download", 1, 5)
    world.frame(Failed(LOAD, "load_failed", "The hub cannot be reached."))
    world.die(ENDED)
    assert (world.state, str(world.failure)) == ("failed", "The hub cannot be reached.")
    again = world.submit(model="b")
    world.advance(5)
    assert world.children == 1
    assert not again.answered


def test_unload_ends_it() -> None:
    world = World(LIMITS, models=MODELS)
    world.submit(model="b")
    world.progress("download", 1, 5)
    world.unload()
    assert world.stopping
