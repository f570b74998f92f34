"""Loads, deaths and blame: the worker's life and the requests' fate, decided under a fake clock."""

from __future__ import annotations

import pytest

from tests.worker.world import CRASH, ENDED, KILLED, World, ready_world
from vision_server.worker.life import Limits
from vision_server.worker.line import MAX_BACKOFF_S
from vision_server.worker.process import Exit
from vision_server.worker.protocol import LOAD, Failed, Progress, Ready, Stop


def test_nothing_starts_by_itself() -> None:
    world = World()
    world.advance(10_000)
    assert (world.state, world.spawns, world.supervisor.next_wakeup_s) == ("unloaded", 0, None)


def test_many_first_requests_load_once_and_run_in_order() -> None:
    world = World()
    jobs = [world.submit() for _ in range(5)]
    assert (world.state, world.spawns) == ("loading", 1)
    world.ready(slots=2)
    assert world.running == [1, 2]
    world.done(jobs[1])
    assert world.running == [1, 2, 3]
    world.done(jobs[0])
    world.done(jobs[2])
    assert world.running == [1, 2, 3, 4, 5]
    assert world.spawns == 1


def test_slots_follow_the_worker() -> None:
    world = ready_world(slots=4)
    jobs = [world.submit() for _ in range(6)]
    assert len(world.running) == 4
    world.ready(slots=2)
    world.done(jobs[0])
    world.done(jobs[1])
    assert len(world.running) == 4
    world.done(jobs[2])
    assert len(world.running) == 5
    assert world.supervisor.life.loads == 1


def test_queue_and_load_time_are_told_apart() -> None:
    world = World()
    job = world.submit()
    world.now += 7
    late = world.submit()
    world.now += 3
    world.ready(slots=1)
    assert job.load_s == pytest.approx(10)
    assert job.sent_s - job.arrived_s == pytest.approx(10)
    world.now += 4
    world.done(job)
    assert late.load_s == pytest.approx(3)
    assert late.sent_s - late.arrived_s - late.load_s == pytest.approx(4)


class TestRoom:
    def full(self, world: World, offered: int = 8) -> int:
        """A worker is loaded, asked for more than it can take, and answers; how many it was given at once."""
        world.submit(run=False)
        world.advance(5)
        world.ready(offered)
        jobs = [world.submit() for _ in range(10)]
        given = len(world.running)
        for job in jobs:
            world.done(job)
        return given

    def release(self, world: World) -> None:
        world.unload()
        world.die(ENDED)

    def test_the_next_worker_takes_as_many_as_the_last_one_had_room_for_and_then_twice_as_many(self) -> None:
        world = ready_world(slots=8)
        world.ready(slots=2)
        given = []
        for _ in range(4):
            self.release(world)
            given.append(self.full(world))
        assert given == [2, 4, 8, 8]

    def test_one_that_runs_out_of_memory_again_is_followed_by_one_with_as_few(self) -> None:
        world = ready_world(slots=8)
        world.ready(slots=4)
        self.release(world)
        assert self.full(world) == 4
        self.release(world)
        assert self.full(world) == 8
        world.ready(slots=4)
        for job in [world.submit() for _ in range(9)]:
            world.done(job)
        self.release(world)
        assert self.full(world) == 4

    def test_one_that_never_had_so_many_proves_nothing(self) -> None:
        world = ready_world(slots=8)
        world.ready(slots=4)
        for end in (None, CRASH, None):
            if end:
                world.die(end)
            else:
                self.release(world)
            world.submit(run=False)
            world.advance(5)
            world.ready(slots=8)
            world.done(world.submit())
        self.release(world)
        assert self.full(world) == 4

    def test_a_worker_that_is_ready_when_it_is_to_leave_already_says_nothing_about_room(self) -> None:
        world = ready_world(slots=8)
        world.ready(slots=2)
        self.release(world)
        world.withdraw(world.submit())
        world.unload()
        assert world.stopping
        world.ready(slots=8)
        world.die(ENDED)
        assert self.full(world) == 2


class TestBlame:
    def test_who_is_alone_at_two_deaths_has_caused_them(self) -> None:
        world = ready_world()
        job = world.submit()
        world.die(CRASH)
        assert not job.answered
        world.ready()
        assert world.running == [job.id]
        world.die(CRASH)
        assert world.code(job) == "worker_crash"
        assert world.state == "unloaded"

    def test_everything_held_is_tried_again_alone_and_first(self) -> None:
        world = ready_world(slots=3)
        first, poison, third, waiting = [world.submit() for _ in range(4)]
        world.die(CRASH)
        world.ready(slots=3)
        assert world.running == [first.id]
        world.done(first)
        assert world.running == [first.id, poison.id]
        world.die(CRASH)
        world.advance(5)
        world.ready(slots=3)
        assert world.running == [poison.id]
        world.die(CRASH)
        assert world.code(poison) == "worker_crash"
        world.advance(5)
        world.ready(slots=3)
        assert world.running == [third.id]
        world.done(third)
        assert world.running == [third.id, waiting.id]
        world.done(waiting)
        assert [world.code(job) for job in (first, third, waiting)] == [None] * 3

    def test_five_deaths_from_outside_and_no_more(self) -> None:
        world = ready_world()
        job = world.submit()
        for _ in range(4):
            world.die(KILLED)
            world.advance(5)
            world.ready()
            assert world.running == [job.id]
        world.die(KILLED)
        assert world.code(job) == "worker_crash"

    def test_a_death_from_outside_is_not_added_to_a_crash(self) -> None:
        world = ready_world()
        job = world.submit()
        for end in (CRASH, KILLED, KILLED):
            world.die(end)
            world.advance(5)
            world.ready()
        world.done(job)
        assert world.code(job) is None

    def test_a_cancelled_request_is_not_tried_again(self) -> None:
        world = ready_world()
        gone, stays = world.submit(), world.submit()
        world.withdraw(gone)
        world.die(CRASH)
        world.ready()
        assert world.running == [stays.id]
        assert gone.id not in world.answers

    def test_a_death_that_nobody_waits_for_starts_nothing(self) -> None:
        world = ready_world()
        world.die(CRASH)
        assert (world.state, world.spawns, world.supervisor.life.restarts) == ("unloaded", 1, 1)

    def test_garbage_ends_the_worker_and_counts_as_its_death(self) -> None:
        world = ready_world()
        job = world.submit()
        world.supervisor.on_garbage("junk", world.now)
        assert world.killed
        world.die(CRASH)
        world.ready()
        assert world.running == [job.id]

    @pytest.mark.parametrize("frame", [Failed(99, "internal", ""), Failed(LOAD, "internal", ""), Stop()])
    def test_an_answer_that_was_not_asked_for_is_garbage(self, frame: Failed | Stop) -> None:
        world = ready_world()
        world.frame(frame)
        assert world.killed


class TestBackoff:
    def test_the_first_replacement_comes_at_once_then_it_takes_longer(self) -> None:
        world = ready_world()
        world.submit()
        delays = []
        for _ in range(4):
            world.die(KILLED)
            began_s = world.now
            while not world.children:
                due = world.supervisor.next_wakeup_s
                assert due is not None
                world.advance(due - world.now)
            delays.append(world.now - began_s)
            world.ready()
        assert delays == [0, 0.25, 0.5, 1.0]

    def test_nobody_waits_more_than_five_seconds_in_all(self) -> None:
        world = World(Limits(load_stall_timeout_s=1e9), timeout_s=1e9)
        patient = world.submit()
        for _ in range(30):
            if world.children:
                world.ready(slots=1)
                world.die(KILLED)
            if patient.answered:
                break
            victim = world.submit()
            world.advance(10)
            assert world.waited_s.get(victim.id, 0.0) <= MAX_BACKOFF_S
        assert 1 < world.waited_s[patient.id] <= MAX_BACKOFF_S

    def test_who_comes_during_it_is_charged_for_the_rest(self) -> None:
        world = ready_world()
        world.submit()
        for _ in range(4):
            world.advance(5)
            world.ready()
            world.die(KILLED)
        assert world.submit().backoff_s == pytest.approx(1.0)
        world.advance(0.4)
        assert world.submit().backoff_s == pytest.approx(0.6)

    def test_an_answer_clears_it(self) -> None:
        world = ready_world()
        job = world.submit()
        world.die(KILLED)
        world.ready()
        world.done(job)
        world.submit()
        world.die(KILLED)
        assert world.children == 1

    def test_cancelled_during_it_starts_nothing(self) -> None:
        world = ready_world()
        job = world.submit()
        world.die(KILLED)
        world.ready()
        world.die(KILLED)
        assert (world.state, world.children) == ("loading", 0)
        assert world.load_phase == "back-off"
        world.withdraw(job)
        assert world.state == "unloaded"
        world.advance(10)
        assert (world.state, world.children) == ("unloaded", 0)


class TestLoad:
    def test_a_failure_is_told_to_all_and_the_next_request_tries_again(self) -> None:
        world = World()
        jobs = [world.submit(), world.submit(run=False), world.submit()]
        world.frame(Failed(LOAD, "bad_checkpoint", "config.json is missing."))
        assert {world.code(job) for job in jobs} == {"bad_checkpoint"}
        world.die(ENDED)
        assert world.state == "failed"
        assert str(world.failure) == "config.json is missing."
        again = world.submit()
        world.advance(5)
        world.ready()
        world.done(again)
        assert (world.state, world.failure) == ("ready", None)

    def test_an_error_that_is_no_503_becomes_one(self) -> None:
        world = World()
        job = world.submit()
        world.frame(Failed(LOAD, "bad_option", "No such device."))
        assert world.code(job) == "load_failed"

    def test_a_stall_ends_it_and_progress_puts_that_off(self) -> None:
        world = World(Limits(load_stall_timeout_s=10))
        job = world.submit()
        for _ in range(10):
            world.advance(9)
            world.progress()
        assert not world.killed
        world.advance(10)
        assert world.killed
        world.die(CRASH)
        assert world.code(job) == "load_failed"
        assert world.state == "failed"

    def test_a_load_that_somebody_suspended_is_tried_again(self) -> None:
        world = World(Limits(load_stall_timeout_s=10))
        job = world.submit()
        world.suspended = True
        world.advance(10)
        world.die(CRASH)
        assert not job.answered
        world.suspended = False
        world.ready()
        assert world.running == [job.id]

    @pytest.mark.parametrize(("end", "tries"), [(CRASH, 3), (ENDED, 3), (KILLED, 5)])
    def test_a_worker_that_dies_loading_is_tried_a_few_times(self, end: Exit, tries: int) -> None:
        world = World()
        job = world.submit()
        for _ in range(tries):
            assert not job.answered
            world.advance(5)
            world.die(end)
        assert world.code(job) == "load_failed"
        assert (world.state, world.spawns) == ("failed", tries)

    def test_a_process_that_cannot_be_started_is_a_failure(self) -> None:
        world = World()
        job = world.submit()
        world.children -= 1
        world.supervisor.on_spawn_failed(world.now)
        assert world.code(job) == "load_failed"
        assert world.state == "failed"

    def test_the_time_of_a_download_does_not_count(self) -> None:
        world = World(Limits(load_stall_timeout_s=50), timeout_s=60)
        job = world.submit()
        world.advance(10)
        for _ in range(100):
            world.progress("download")
            world.advance(40)
        world.progress("weights")
        assert not job.answered
        world.advance(49)
        world.progress("weights")
        assert not job.answered
        world.advance(2)
        assert world.code(job) == "timeout"


class TestHang:
    def test_a_silent_worker_is_killed_and_its_work_tried_again(self) -> None:
        world = ready_world(limits=Limits(step_stall_timeout_s=20))
        world.advance(100)
        job = world.submit()
        world.advance(19)
        assert not world.killed
        world.progress("step")
        world.advance(19)
        assert not world.killed
        world.advance(1)
        assert world.killed
        world.die(CRASH)
        world.ready()
        assert (world.running, job.deaths_alone) == ([job.id], 1)

    def test_a_suspended_worker_is_not_the_requests_fault(self) -> None:
        world = ready_world(limits=Limits(step_stall_timeout_s=20))
        job = world.submit()
        world.suspended = True
        world.advance(20)
        world.die(CRASH)
        assert (job.deaths_alone, job.deaths_outside) == (0, 1)


def test_progress_and_memory_are_remembered_while_loading() -> None:
    world = World()
    world.submit()
    world.frame(Progress("weights", 10, 100))
    assert world.load_phase == "weights"
    assert world.supervisor.life.progress == Progress("weights", 10, 100)
    world.frame(Ready("toy", "cpu", "float32", 1))
    assert world.load_phase is None
