"""How the worker is released: idle, unload, clients that leave, shutdown; under a fake clock."""

from __future__ import annotations

import pytest

from tests.worker.world import CRASH, ENDED, KILLED, World, ready_world
from vision_server.errors import Busy
from vision_server.worker.life import STOP_GRACE_S, Limits


class TestIdle:
    def test_released_after_the_timeout_and_started_again(self) -> None:
        world = ready_world(idle_timeout_s=300)
        world.advance(299.9)
        assert world.state == "ready"
        world.advance(0.2)
        assert world.stopping
        assert world.state == "unloading"
        world.die(ENDED)
        assert (world.state, world.supervisor.life.unloads, world.supervisor.life.restarts) == ("unloaded", 1, 0)
        world.submit()
        assert world.spawns == 2

    def test_use_puts_it_off_and_work_suspends_it(self) -> None:
        world = ready_world(idle_timeout_s=300)
        world.advance(290)
        job = world.submit()
        assert world.supervisor.idle.at_s is None
        for _ in range(40):
            world.advance(100)
            world.progress("step")
            if job.answered:
                break
        assert world.state == "ready"
        world.failed(job, "cancelled")
        world.advance(299)
        assert world.state == "ready"
        world.advance(2)
        assert world.state == "unloading"

    def test_a_request_during_the_release_waits_for_the_next_worker(self) -> None:
        world = ready_world(idle_timeout_s=5)
        world.advance(5)
        job = world.submit()
        assert world.running == []
        world.die(ENDED)
        assert world.spawns == 2
        world.ready()
        assert world.running == [job.id]

    def test_a_worker_deaf_to_stop_is_killed(self) -> None:
        world = ready_world(idle_timeout_s=5)
        world.advance(5)
        assert not world.killed
        world.advance(STOP_GRACE_S)
        assert world.killed
        world.die(CRASH)
        assert (world.supervisor.life.unloads, world.supervisor.life.restarts) == (1, 0)

    @pytest.mark.parametrize(("timeout_s", "state"), [(0.0, "unloading"), (-1.0, "ready")])
    def test_zero_is_at_once_and_negative_never(self, timeout_s: float, state: str) -> None:
        world = ready_world(idle_timeout_s=timeout_s)
        world.advance(0 if timeout_s == 0 else 1e6)
        assert world.state == state

    def test_a_request_may_bring_its_own(self) -> None:
        world = ready_world(idle_timeout_s=300)
        world.done(world.submit(keep_alive_s=7))
        world.advance(8)
        assert world.state == "unloading"

    def test_ten_thousand_races_at_the_edge_lose_nothing(self) -> None:
        world = ready_world(slots=1, idle_timeout_s=1.0)
        for turn in range(10_000):
            world.advance(1.0 + ((turn % 11) - 5) / 1000)
            job = world.submit()
            if world.ending:
                world.die(ENDED)
                world.ready(slots=1)
            assert world.running[-1] == job.id
            world.done(job)
            assert world.answers.pop(job.id) is not None
        assert world.supervisor.life.unloads > 1000
        assert world.supervisor.life.restarts == 0


class TestLeaving:
    def test_a_waiting_request_leaves_without_a_trace(self) -> None:
        world = ready_world(slots=1)
        first, second, third = [world.submit() for _ in range(3)]
        world.withdraw(second)
        assert world.supervisor.line.depth == 1
        world.done(first)
        assert world.running == [first.id, third.id]

    def test_a_running_one_keeps_its_slot_until_the_worker_lets_go(self) -> None:
        world = ready_world(slots=1)
        first, second = world.submit(), world.submit()
        world.withdraw(first)
        assert world.cancels == [first.id]
        assert world.running == [first.id]
        world.failed(first, "cancelled")
        assert world.running == [first.id, second.id]

    def test_an_answer_that_crosses_the_cancel_is_dropped(self) -> None:
        world = ready_world(slots=1)
        job = world.submit()
        world.withdraw(job)
        world.done(job)
        assert job.id not in world.answers
        assert world.state == "ready"

    def test_a_deadline_is_answered_when_it_passes(self) -> None:
        world = World(Limits(load_stall_timeout_s=1e9), timeout_s=30)
        first = world.submit()
        world.advance(10)
        second = world.submit()
        world.advance(20)
        assert world.code(first) == "timeout"
        assert not second.answered
        world.ready(slots=1)
        world.advance(10)
        assert world.code(second) == "timeout"
        assert world.cancels == [second.id]


class TestUnload:
    def test_ends_an_idle_worker(self) -> None:
        world = ready_world()
        job = world.unload()
        assert world.stopping
        assert job.id not in world.answers
        world.die(ENDED)
        assert job.id in world.answers
        assert (world.state, world.supervisor.life.unloads) == ("unloaded", 1)

    def test_without_a_worker_there_is_nothing_to_do(self) -> None:
        world = World()
        assert world.unload().id in world.answers
        assert world.unload(force=True).id in world.answers

    def test_busy_unless_forced(self) -> None:
        world = ready_world()
        job = world.submit()
        with pytest.raises(Busy):
            world.unload()
        world.done(job)
        world.unload()
        assert world.stopping

    def test_forced_it_finishes_what_came_before_and_nothing_after(self) -> None:
        world = ready_world(slots=1)
        before = [world.submit(), world.submit()]
        unload = world.unload(force=True)
        after, loader = world.submit(), world.submit(run=False)
        world.done(before[0])
        world.done(before[1])
        assert world.stopping
        assert world.running == [job.id for job in before]
        world.die(ENDED)
        assert unload.id in world.answers
        assert loader.id not in world.answers
        world.ready()
        assert world.running == [after.id]
        assert loader.id in world.answers

    def test_a_cancelled_unload_is_forgotten(self) -> None:
        world = ready_world(slots=1)
        first = world.submit()
        unload = world.unload(force=True)
        second = world.submit()
        world.withdraw(unload)
        world.done(first)
        assert not world.stopping
        assert second.id in world.running


class TestShutdown:
    def test_what_is_here_is_finished_first(self) -> None:
        world = ready_world(slots=1, limits=Limits(shutdown_grace_s=30))
        jobs = [world.submit(), world.submit()]
        bye = world.job(run=False)
        world.supervisor.drain(bye, world.now)
        world.done(jobs[0])
        assert not world.stopping
        world.done(jobs[1])
        assert world.stopping
        world.die(ENDED)
        assert bye.id in world.answers

    def test_after_the_grace_the_rest_is_told(self) -> None:
        world = ready_world(slots=1, limits=Limits(shutdown_grace_s=30))
        jobs = [world.submit(), world.submit()]
        bye = world.job(run=False)
        world.supervisor.drain(bye, world.now)
        world.advance(30)
        assert {world.code(job) for job in jobs} == {"unavailable"}
        assert world.stopping
        world.die(ENDED)
        assert bye.id in world.answers
        assert world.supervisor.next_wakeup_s is None

    @pytest.mark.parametrize("phase", ["loading", "ready", "back-off", "unloaded"])
    def test_close_answers_everybody_at_once(self, phase: str) -> None:
        world = World()
        jobs = [] if phase == "unloaded" else [world.submit()]
        if phase in ("ready", "back-off"):
            world.ready()
        if phase == "back-off":
            world.die(KILLED)
            world.ready()
            world.die(KILLED)
        bye = world.job(run=False)
        world.supervisor.close(bye, world.now)
        assert [world.code(job) for job in jobs] == ["unavailable"] * len(jobs)
        if world.children:
            assert world.killed
            world.die(CRASH)
        assert bye.id in world.answers
        assert world.supervisor.next_wakeup_s is None
