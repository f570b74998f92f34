"""Several models and one worker: when it is swapped, when it ends, and who is told of what."""

from __future__ import annotations

from tests.worker.models_world import MODELS, finish, hold_back, swap, world_of
from tests.worker.world import CRASH, ENDED, KILLED, World
from vision_server.worker.life import Limits
from vision_server.worker.protocol import LOAD, Failed


class TestSwap:
    def test_the_worker_ends_when_it_holds_nothing_and_another_one_starts(self) -> None:
        world = world_of()
        first = world.submit(model="a")
        other = world.submit(model="b")
        assert not world.stopping
        world.done(first)
        assert (world.stopping, world.state, world.spawned) == (True, "unloading", ["a"])
        world.die(ENDED)
        assert (world.state, world.model, world.spawned) == ("loading", "b", ["a", "b"])
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
        assert (world.children, world.state, world.model) == (0, "loading", "a")
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
        assert (world.code(good), world.state, world.failure) == (None, "ready", None)
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
            assert (world.state, world.model) == (state, "a")

    def test_another_model_does_not_wait_for_a_back_off(self) -> None:
        world = world_of()
        suspect = world.submit(model="a")
        hold_back(world)
        assert (world.children, world.model) == (0, "a")
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
