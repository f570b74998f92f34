"""A request is answered with 504 when its time is over and not when its turn comes: wherever it is, on a fake clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.world import CRASH, World
from vision_server.errors import VisionError
from vision_server.worker.lane import Job
from vision_server.worker.life import Limits
from vision_server.worker.protocol import Done

TIMEOUT_S = 40.0
PATIENT = Limits(load_stall_timeout_s=1e6, step_stall_timeout_s=1e6)


class TimedWorld(World):
    """Notes when each job was answered."""

    def __init__(self) -> None:
        super().__init__(PATIENT, timeout_s=TIMEOUT_S)
        self.answered_s: dict[int, float] = {}

    def answer(self, job: Job, result: Done | VisionError | None) -> None:
        super().answer(job, result)
        self.answered_s[job.id] = self.now

    def ask(self, left_s: float = TIMEOUT_S) -> Job:
        """A request whose body took the rest of its time."""
        job = self.job()
        job.deadline_s = self.now + left_s
        self.supervisor.submit(job, self.now)
        return job


def test_while_the_model_loads(caplog: pytest.LogCaptureFixture) -> None:
    world = TimedWorld()
    began_s, job = world.now, world.ask()
    world.advance(TIMEOUT_S - 0.001)
    assert not world.answers
    world.advance(TIMEOUT_S)
    assert (world.code(job), world.answered_s[job.id]) == ("timeout", began_s + TIMEOUT_S)
    assert job.run is not None
    told = [vars(one).get("request_id") for one in caplog.records if one.getMessage() == "its time is over"]
    assert told == [job.run.request_id]


def test_in_the_worker_which_lets_go_of_it_and_of_nobody_else() -> None:
    world = TimedWorld()
    first, second = world.ask(10.0), world.ask(20.0)
    third = world.ask(30.0)
    world.ready(slots=2)
    world.advance(10.0)
    assert (list(world.answers), world.code(first), world.cancels) == ([first.id], "timeout", [first.id])
    assert world.running == [first.id, second.id], "its row is taken until the worker says otherwise"
    world.failed(first, "cancelled")
    assert world.running == [first.id, second.id, third.id]
    world.done(second)
    world.done(third)
    assert (world.code(second), world.code(third)) == (None, None)


def test_in_the_queue_behind_others_who_stay() -> None:
    world = TimedWorld()
    held = world.ask()
    world.ready(slots=1)
    behind, late = world.ask(35.0), world.ask(5.0)
    world.advance(5.0)
    assert (list(world.answers), world.code(late), world.cancels) == ([late.id], "timeout", [])
    world.done(held)
    assert world.running == [held.id, behind.id]


def test_in_the_back_off_and_as_a_suspect() -> None:
    world = TimedWorld()
    job, other = world.ask(3.0), world.ask()
    world.ready(slots=2)
    for _ in range(2):
        if world.children:
            world.die(CRASH)
    world.advance(3.0)
    assert world.code(job) == "timeout"
    assert other.id in world.supervisor.line.alive


def test_a_download_is_nobodys_time() -> None:
    world = TimedWorld()
    early, late = world.ask(TIMEOUT_S), world.ask(5.0)
    for _ in range(10):
        world.progress("download", 1, 100)
        world.advance(30.0)
    assert not world.answers
    world.progress("weights")
    world.advance(4.999)
    assert not world.answers
    world.advance(0.002)
    assert list(world.answers) == [late.id]
    world.advance(TIMEOUT_S)
    assert list(world.answers) == [late.id, early.id]


@pytest.mark.parametrize("slots", [0, 1, 3])
@given(
    asked=st.lists(
        st.tuples(st.floats(0, 20), st.floats(0.001, TIMEOUT_S), st.sampled_from(["stays", "leaves", "is done"])),
        max_size=30,
    )
)
def test_each_at_its_own_time_whatever_the_order(slots: int, asked: list[tuple[float, float, str]]) -> None:
    world = TimedWorld()
    jobs: list[tuple[Job, float]] = []
    for later_s, left_s, fate in asked:
        world.advance(later_s)
        job = world.ask(left_s)
        if slots and not world.supervisor.life.slots:
            world.ready(slots)
        if fate == "leaves":
            world.withdraw(job)
        elif fate == "is done" and job.id in world.supervisor.line.held:
            world.done(job)
        else:
            jobs.append((job, job.deadline_s))
    world.advance(2 * TIMEOUT_S)
    for job, deadline_s in jobs:
        assert world.code(job) == "timeout"
        assert world.answered_s[job.id] == deadline_s
    assert not world.supervisor.line._deadlines
