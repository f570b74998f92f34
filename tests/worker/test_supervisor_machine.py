"""Any sequence of events under hypothesis: no request lost, answered twice or starved; never two workers; idle only
when idle; nobody is blamed without cause."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.worker.world import CRASH, ENDED, KILLED, World
from vision_server.errors import Busy
from vision_server.worker.life import Limits, Phase
from vision_server.worker.line import MAX_BACKOFF_S, Job
from vision_server.worker.protocol import LOAD, Cancel, Failed, Stop

LIMITS = Limits(idle_timeout_s=60, load_stall_timeout_s=30, step_stall_timeout_s=20, shutdown_grace_s=10)


class WorkerLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(LIMITS, timeout_s=200)
        self.asked: list[Job] = []
        self.unloads: list[Job] = []
        self.withdrawn: set[int] = set()
        self.deaths: dict[int, int] = {}  # job id -> deaths of a worker that held it

    @property
    def held(self) -> list[int]:
        """What a real worker would be working on: everything sent and not let go."""
        return list(self.world.supervisor.line.held)

    def starting(self) -> bool:
        return self.world.supervisor.life.phase is Phase.STARTING

    def serving(self) -> bool:
        return self.world.supervisor.life.phase is Phase.READY

    # Clients

    @rule(run=st.booleans())
    def submit(self, run: bool) -> None:
        self.asked.append(self.world.submit(run=run))

    @rule(data=st.data())
    @precondition(lambda self: self.asked)
    def withdraw(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.asked))
        if not job.answered:
            self.withdrawn.add(job.id)
        self.world.withdraw(job)

    @rule(force=st.booleans())
    def unload(self, force: bool) -> None:
        try:
            self.unloads.append(self.world.unload(force))
        except Busy:
            assert not force
            assert self.world.supervisor.line.alive

    # The worker

    @rule(slots=st.integers(1, 4))
    @precondition(lambda self: self.starting() or self.serving())
    def ready(self, slots: int) -> None:
        self.world.ready(slots)

    @rule(phase=st.sampled_from(["weights", "download"]))
    @precondition(lambda self: self.starting())
    def progress(self, phase: str) -> None:
        self.world.progress(phase)

    @rule()
    @precondition(lambda self: self.starting())
    def fail_to_load(self) -> None:
        self.world.frame(Failed(LOAD, "out_of_memory", "no"))

    @rule(data=st.data(), well=st.booleans())
    @precondition(lambda self: self.serving() and self.held)
    def answer(self, data: st.DataObject, well: bool) -> None:
        job = self.world.supervisor.line.held[data.draw(st.sampled_from(self.held))]
        if Cancel(job.id) in self.world.sent and not well:
            self.world.failed(job, Failed.CANCELLED)
        elif well:
            self.world.done(job)
        else:
            self.world.failed(job)

    @rule(end=st.sampled_from([CRASH, KILLED, ENDED]))
    @precondition(lambda self: self.world.children)
    def die(self, end: object) -> None:
        for job_id in self.held:
            self.deaths[job_id] = self.deaths.get(job_id, 0) + 1
        self.world.die({id(e): e for e in (CRASH, KILLED, ENDED)}[id(end)])

    @rule()
    @precondition(lambda self: self.world.children)
    def write_garbage(self) -> None:
        self.world.supervisor.on_garbage("junk", self.world.now)

    # Time

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 7.0, 25.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.world.advance(seconds)
        if self.world.stopping and self.world.children:
            self.world.die(ENDED)

    @rule(seconds=st.floats(-5, 5))
    def tick_at_any_time(self, seconds: float) -> None:
        self.world.supervisor.tick(self.world.now + seconds)

    # What always holds

    @invariant()
    def every_job_has_one_place(self) -> None:
        line = self.world.supervisor.line
        for job in self.asked:
            places = [job.id in line.held, job in line.waiting, job in line.suspects, job.id in line.loaders]
            if job.answered:
                assert not any(places[1:])
                assert (job.id in self.world.answers) != (job.id in self.withdrawn)
            else:
                assert job.id in line.alive
                assert job.id not in self.world.answers
                assert sum(places) == 1

    @invariant()
    def the_line_is_in_order(self) -> None:
        line = self.world.supervisor.line
        for ids in ([job.id for job in line.waiting], [job.id for job in line.suspects], list(line.alive)):
            assert ids == sorted(ids)
        running = self.world.running
        assert len(running) == len(set(running))

    @invariant()
    def a_suspect_is_alone(self) -> None:
        held = self.world.supervisor.line.held
        assert len(held) == 1 or not any(job.suspect for job in held.values())

    @invariant()
    def what_is_held_was_sent_to_this_worker(self) -> None:
        line = self.world.supervisor.line
        if self.starting() or not self.world.children:
            assert not line.held
        elif self.serving():
            assert set(line.held) <= set(self.world.running)
            for job in line.held.values():
                assert job.answered == (Cancel(job.id) in self.world.sent)

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        supervisor = self.world.supervisor
        if supervisor.line.alive:
            assert self.world.children or supervisor.next_wakeup_s is not None
            assert supervisor.state in ("loading", "ready", "unloading")
        if self.world.children:
            assert supervisor.life.phase is not Phase.GONE

    @invariant()
    def no_slot_is_left_free(self) -> None:
        supervisor = self.world.supervisor
        if self.serving() and supervisor.line.waiting and not supervisor.line.suspects and not supervisor._leaving:
            ready = supervisor.life.ready
            assert ready is not None
            alone = any(job.suspect for job in supervisor.line.held.values())
            assert alone or len(supervisor.line.held) >= ready.slots

    @invariant()
    def idle_only_when_idle(self) -> None:
        supervisor = self.world.supervisor
        if supervisor.idle_at_s is not None:
            assert self.serving()
            assert not supervisor.line.alive
            assert not supervisor.line.held
        elif self.serving():
            assert supervisor.line.alive or supervisor.line.held

    @invariant()
    def blame_and_backoff_have_their_bounds(self) -> None:
        for job in self.asked:
            assert self.world.waited_s.get(job.id, 0.0) <= MAX_BACKOFF_S + 1e-6
            assert job.deaths_alone <= 2
            assert job.deaths_outside <= 5
            if job.id in self.world.answers and self.world.code(job) == "worker_crash":
                assert self.deaths.get(job.id, 0) >= 2

    def teardown(self) -> None:
        """From any state a well-behaved worker brings everything to its end."""
        world, began_s = self.world, self.world.now
        for _ in range(200):
            if self.starting():
                world.ready(4)
            elif self.serving() and self.held:
                for job_id in self.held:
                    world.done(world.supervisor.line.held[job_id])
            elif world.ending and world.children:
                assert world.killed or Stop() in world.sent
                world.die(ENDED if not world.killed else CRASH)
            elif world.supervisor.line.alive or any(not job.answered for job in self.unloads):
                world.advance(1.0)
            else:
                break
        assert all(job.answered for job in self.asked), "lost"
        assert all(job.id in world.answers for job in self.unloads)
        assert world.now - began_s <= 2 * MAX_BACKOFF_S + 5, "starved"


TestWorkerLife = WorkerLife.TestCase
TestWorkerLife.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
