"""Several models and one worker: whose turn it is, when the worker is swapped, and who is told of what."""

from __future__ import annotations

import pytest

from tests.worker.world import CRASH, ENDED, KILLED, World
from vision_server.worker.lane import Job
from vision_server.worker.life import Limits
from vision_server.worker.protocol import LOAD, Failed

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
    assert world.supervisor.load_phase == "back-off"


def swap(world: World, slots: int = 2) -> None:
    """The worker was told to end, does, and the next one is ready."""
    assert world.stopping
    assert not world.killed
    world.die(ENDED)
    world.ready(slots)


class TestSwap:
    def test_the_worker_ends_when_it_holds_nothing_and_another_one_starts(self) -> None:
        world = world_of()
        first = world.submit(model="a")
        other = world.submit(model="b")
        assert not world.stopping
        world.done(first)
        assert (world.stopping, world.state, world.spawned) == (True, "unloading", ["a"])
        world.die(ENDED)
        assert (world.state, world.supervisor.model, world.spawned) == ("loading", "b", ["a", "b"])
        world.ready()
        assert world.running == [other.id]
        world.done(other)
        life = world.supervisor.life
        assert (world.code(other), life.loads, life.unloads, life.restarts) == (None, 2, 1, 0)

    def test_models_come_in_the_order_of_who_waits(self) -> None:
        world = World(models=MODELS)
        jobs = [world.submit(model=model) for model in ("a", "b", "c", "b", "a")]
        for _ in range(3):
            world.ready()
            finish(world)
            if world.stopping:
                world.die(ENDED)
        assert world.spawned == ["a", "b", "c"]
        assert all(job.answered for job in jobs)

    def test_a_loader_waits_for_its_model_like_a_request(self) -> None:
        world = world_of()
        first, loader = world.submit(model="a"), world.submit(run=False, model="b")
        assert loader.id not in world.answers
        world.done(first)
        swap(world)
        assert world.answers[loader.id] is None

    def test_who_still_runs_is_not_cut_off_even_when_nobody_waits_for_it(self) -> None:
        world = world_of()
        gone = world.submit(model="a")
        world.submit(model="b")
        world.withdraw(gone)
        assert not world.stopping
        world.failed(gone, "cancelled")
        assert world.stopping

    def test_a_load_that_nobody_wants_any_more_gives_way(self) -> None:
        world = World(models=MODELS)
        gone, stays = world.submit(model="a"), world.submit(model="b")
        world.withdraw(gone)
        assert world.stopping
        world.die(ENDED)
        world.ready()
        assert world.running == [stays.id]
        assert (world.supervisor.life.unloads, world.supervisor.life.restarts) == (0, 0)

    def test_a_worker_deaf_to_it_is_killed_and_nobody_is_blamed(self) -> None:
        world = world_of()
        waits = world.submit(model="b")
        assert world.stopping
        world.advance(5)
        assert world.killed
        assert world.spawned == ["a"]
        world.die(CRASH)
        assert world.spawned == ["a", "b"]
        world.ready()
        world.done(waits)
        assert (world.supervisor.life.unloads, world.supervisor.life.restarts) == (1, 0)

    def test_time_in_the_other_models_hands_counts_against_the_deadline(self) -> None:
        world = World(Limits(step_stall_timeout_s=1e9), timeout_s=30, models=MODELS)
        first = world.submit(model="a")
        world.ready()
        world.advance(10)
        late = world.submit(model="b")
        world.advance(20)
        assert world.code(first) == "timeout"
        world.advance(10)
        assert world.code(late) == "timeout"
        world.failed(first, "cancelled")
        assert world.state == "ready"


class TestOvertaking:
    def test_eight_and_not_nine(self) -> None:
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

    def test_they_are_counted_when_they_are_sent_however_many_slots_there_are(self) -> None:
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

    def test_who_came_before_does_not_overtake(self) -> None:
        world = world_of(slots=1)
        earlier = [world.submit(model="a") for _ in range(20)]
        world.submit(model="b")
        later = [world.submit(model="a") for _ in range(9)]
        while not world.stopping:
            finish(world)
        assert world.running == ids([*earlier, *later[:8]])

    def test_one_that_left_before_it_was_sent_does_not_count(self) -> None:
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

    def test_when_the_overtaken_one_leaves_the_count_is_that_of_the_next(self) -> None:
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

    def test_a_third_model_is_not_overtaken_more_often_because_there_are_two_others(self) -> None:
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

    def test_a_loader_is_overtaken_no_more_often_than_a_request(self) -> None:
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

    def test_an_endless_stream_starves_nobody(self) -> None:
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


class TestIdle:
    def test_each_model_has_its_own_time(self) -> None:
        world = world_of()
        world.done(world.submit(model="a"))
        world.advance(299)
        assert world.state == "ready"
        world.submit(model="b")
        swap(world)
        finish(world)
        world.advance(19)
        assert world.state == "ready"
        world.advance(2)
        assert world.state == "unloading"

    def test_what_a_request_says_holds_for_its_own_model(self) -> None:
        world = world_of()
        world.done(world.submit(model="a", keep_alive_s=-1))
        world.advance(1e6)
        assert world.state == "ready"
        world.submit(model="b")
        swap(world)
        finish(world)
        assert world.supervisor.idle.at_s == world.now + MODELS["b"]

    def test_one_who_gave_up_waiting_for_another_model_says_nothing_about_this_one(self) -> None:
        world = World(Limits(step_stall_timeout_s=1e9), timeout_s=10, models=MODELS)
        world.submit(model="a", keep_alive_s=7)
        world.ready()
        world.now += 1
        running = world.submit(model="a", keep_alive_s=7)
        late = world.submit(model="b", keep_alive_s=-1)
        world.advance(10)
        assert world.code(late) == world.code(running) == "timeout"
        finish(world)
        assert world.supervisor.idle.at_s == world.now + 7


class TestUnload:
    def test_forced_it_finishes_what_came_before_whatever_model_that_needs(self) -> None:
        world = world_of(slots=1)
        first, second = world.submit(model="a"), world.submit(model="b")
        unload = world.unload(force=True)
        after = [world.submit(model=model) for model in ("b", "c", "a")]
        world.done(first)
        swap(world)
        assert world.running == [second.id]
        world.done(second)
        assert world.stopping
        world.die(ENDED)
        assert unload.answered
        assert world.spawned == ["a", "b", "b"]
        world.ready()
        assert world.running == [after[0].id]

    def test_who_came_after_it_gets_no_worker_while_one_before_it_is_held_back(self) -> None:
        world = world_of()
        stays = world.submit(model="a")
        hold_back(world)
        unload, after = world.unload(force=True), world.submit(model="b")
        assert (world.children, world.state, world.supervisor.model) == (0, "loading", "a")
        world.advance(5)
        world.ready()
        assert world.running == [stays.id]
        world.done(stays)
        world.die(ENDED)
        assert unload.answered
        world.ready()
        assert world.running == [after.id]


class TestTrouble:
    def test_a_failed_load_is_told_to_those_who_wait_for_that_model_and_the_others_go_on(self) -> None:
        world = World(models=MODELS)
        bad = [world.submit(model="b"), world.submit(run=False, model="b")]
        good = world.submit(model="a")
        world.frame(Failed(LOAD, "bad_checkpoint", "config.json is missing."))
        assert [world.code(job) for job in bad] == ["bad_checkpoint"] * 2
        world.die(ENDED)
        assert world.spawned == ["b", "a"]
        world.ready()
        world.done(good)
        supervisor = world.supervisor
        assert (world.code(good), supervisor.state, supervisor.failure) == (None, "ready", None)
        assert str(supervisor.setbacks["b"].failure) == "config.json is missing."
        again = world.submit(model="b")
        swap(world)
        world.done(again)
        assert supervisor.setbacks["b"].failure is None

    def test_the_state_is_failed_when_the_default_one_is(self) -> None:
        for model, state in (("b", "unloaded"), ("a", "failed")):
            world = World(models=MODELS)
            world.submit(model=model)
            world.frame(Failed(LOAD, "out_of_memory", "no"))
            world.die(ENDED)
            assert (world.state, world.supervisor.model) == (state, "a")

    def test_another_model_does_not_wait_for_a_back_off(self) -> None:
        world = world_of()
        suspect = world.submit(model="a")
        hold_back(world)
        assert (world.children, world.supervisor.model) == (0, "a")
        other = world.submit(model="b")
        assert world.spawned[-1] == "b"
        world.ready()
        world.done(other)
        assert world.waited_s.get(other.id, 0.0) == 0.0
        assert not world.stopping
        world.advance(1)
        assert world.stopping
        swap(world)
        assert world.running == [suspect.id]

    def test_who_is_held_back_is_not_overtaken(self) -> None:
        world = world_of(slots=1)
        suspect = world.submit(model="a")
        hold_back(world)
        others = [world.submit(model="b") for _ in range(30)]
        world.ready(slots=1)
        for job in others[:12]:
            world.done(job)
        world.advance(5)
        for job in others[12:20]:
            world.done(job)
        assert not world.stopping
        world.done(others[20])
        assert world.stopping
        swap(world)
        assert world.running == [suspect.id]

    def test_back_off_is_counted_for_each_model(self) -> None:
        world = world_of()
        world.submit(model="a")
        for _ in range(3):
            world.die(KILLED)
            world.advance(5)
            world.ready()
        finish(world)
        world.submit(model="b")
        swap(world)
        world.die(KILLED)
        assert world.spawned[-2:] == ["b", "b"], "the first replacement of b comes at once"

    def test_the_suspects_of_a_dead_worker_run_alone_when_their_model_is_there(self) -> None:
        world = world_of(slots=3)
        other_first = world.submit(model="b")
        swap(world, slots=3)
        held = [world.submit(model="b") for _ in range(2)]
        waiting = world.submit(model="a")
        world.die(CRASH)
        world.ready(slots=3)
        assert world.spawned == ["a", "b", "b"]
        for suspect in (other_first, *held):
            assert world.running[-1] == suspect.id
            assert len(world.supervisor.line.held) == 1
            world.done(suspect)
        swap(world, slots=3)
        assert world.running == [waiting.id]


class TestWithoutWaitingForDownloads:
    LIMITS = Limits(wait_for_download=False)

    def test_who_waits_and_who_comes_is_refused_and_the_download_goes_on(self) -> None:
        world = World(self.LIMITS, models=MODELS)
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

    def test_when_nobody_comes_back_it_is_ready_and_idles_out(self) -> None:
        world = World(self.LIMITS, models=MODELS)
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

    def test_a_loader_waits_for_the_end_of_it(self) -> None:
        world = World(self.LIMITS, models=MODELS)
        loader = world.submit(run=False, model="b")
        world.progress("download", 1, 5)
        assert not loader.answered
        world.ready()
        assert world.answers[loader.id] is None

    def test_another_model_waits_until_the_download_has_come_to_its_end(self) -> None:
        world = World(self.LIMITS, models=MODELS)
        world.submit(model="b")
        world.progress("download", 1, 5)
        other = world.submit(model="a")
        assert not world.stopping
        world.progress("weights")
        assert not world.stopping
        world.ready()
        swap(world)
        assert world.running == [other.id]

    def test_a_download_that_nobody_was_told_of_gives_way(self) -> None:
        world = World(self.LIMITS, models=MODELS)
        gone = world.submit(run=False, model="b")
        world.progress("download", 1, 5)
        world.submit(model="a")
        world.withdraw(gone)
        assert world.stopping

    def test_a_failed_download_is_remembered_and_the_next_request_tries_again(self) -> None:
        world = World(self.LIMITS, models={"b": 20.0})
        world.submit(model="b")
        world.progress("download", 1, 5)
        world.frame(Failed(LOAD, "load_failed", "The hub cannot be reached."))
        world.die(ENDED)
        assert (world.state, str(world.supervisor.failure)) == ("failed", "The hub cannot be reached.")
        again = world.submit(model="b")
        world.advance(5)
        assert world.children == 1
        assert not again.answered

    def test_unload_ends_it(self) -> None:
        world = World(self.LIMITS, models=MODELS)
        world.submit(model="b")
        world.progress("download", 1, 5)
        world.unload()
        assert world.stopping
