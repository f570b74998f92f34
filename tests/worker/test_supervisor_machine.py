"""Any sequence of events under hypothesis: no request lost, answered twice, overtaken too often or starved; never two
workers; idle only when idle; nobody is blamed without cause."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.worker.world import CRASH, ENDED, KILLED, World
from vision_server.errors import Busy, VisionError
from vision_server.worker.lane import MAX_OVERTAKING, Job
from vision_server.worker.life import HANG, Limits, Phase
from vision_server.worker.line import MAX_BACKOFF_S
from vision_server.worker.process import Exit
from vision_server.worker.protocol import LOAD, Cancel, Done, Failed, Frame, Run, Stop
from vision_server.worker.setbacks import STALL

MODELS = {"a": 60.0, "b": 0.0, "c": -1.0}
ENDS = {"crash": CRASH, "killed": KILLED, "ended": ENDED}


class WatchedWorld(World):
    """Counts whom a request goes before that came earlier, wants another model, and need not wait for a back-off; and
    looks whether there is a cause for each start, release and kill."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits, timeout_s=200, models=MODELS)
        self.asked: list[Job] = []
        self.overtaken: dict[int, int] = {}
        self.used_s = self.heard_s = self.now  # when somebody last needed a worker; when one was last heard

    def spawn(self, model: str) -> None:
        super().spawn(model)
        assert any(job.model == model for job in self.supervisor.line.alive.values()), "nobody wants it"
        self.heard_s = self.now

    def kill(self) -> None:
        super().kill()
        if self.supervisor.life._because in (HANG, STALL):
            assert self.now - self.heard_s >= 20, "it was heard a moment ago"

    def answer(self, job: Job, result: Done | VisionError | None) -> None:
        super().answer(job, result)
        self.used_s = self.now

    def frame(self, frame: Frame) -> None:
        self.heard_s = self.now
        super().frame(frame)

    def send(self, frame: Frame) -> None:
        super().send(frame)
        if isinstance(frame, Run) and len(self.supervisor.line.held) == 1:
            self.heard_s = self.now  # it had nothing to say before
        if isinstance(frame, Stop) and not self.supervisor.draining:
            assert not self.supervisor.line.held, "released at work"
        if isinstance(frame, Stop) and self.supervisor.life._because == "idle":
            assert not self.supervisor.line.alive, "released while somebody waits"
            assert self.now - self.used_s >= min(5.0, MODELS[self.spawned[-1]]), "released before its time"
        if isinstance(frame, Run):
            sent = next(job for job in self.asked if job.id == frame.id)
            assert sent.model == self.spawned[-1], "sent to another model"
            self.overtaken[sent.id] = 0
            for job in self.asked if not sent.suspect else ():
                start_at_s = self.supervisor.line.lanes[job.model].start_at_s
                waits = job.id in self.supervisor.line.alive and job.id not in self.supervisor.line.held
                if waits and job.id < sent.id and job.model != sent.model and start_at_s and start_at_s <= self.now:
                    self.overtaken[job.id] = self.overtaken.get(job.id, 0) + 1


class WorkerLife(RuleBasedStateMachine):
    world: WatchedWorld

    def __init__(self) -> None:
        super().__init__()
        self.unloads: list[Job] = []
        self.withdrawn: set[int] = set()
        self.deaths: dict[int, int] = {}  # job id -> deaths of a worker that held it
        self.own_alone: dict[int, int] = {}  # those of them with nobody beside it, by no signal and no kill

    @initialize(wait_for_download=st.booleans(), drains=st.booleans())
    def begin(self, wait_for_download: bool, drains: bool) -> None:
        self.world = WatchedWorld(Limits(30, 20, 10, wait_for_download))
        self.drains = drains

    @property
    def asked(self) -> list[Job]:
        return self.world.asked

    @property
    def held(self) -> list[int]:
        """What a real worker would be working on: everything sent and not let go."""
        return list(self.world.supervisor.line.held)

    def starting(self) -> bool:
        return self.world.supervisor.life.phase is Phase.STARTING

    def serving(self) -> bool:
        return self.world.supervisor.life.phase is Phase.READY

    # Clients

    @rule(
        run=st.booleans(),
        model=st.sampled_from([*MODELS]),
        keep_alive_s=st.sampled_from([None, 5.0]),
        wait=st.booleans(),
    )
    def submit(self, run: bool, model: str, keep_alive_s: float | None, wait: bool) -> None:
        job = self.world.job(run, keep_alive_s, model)
        self.asked.append(job)
        self.world.supervisor.submit(job, self.world.now)
        while wait and self.world.children and not self.serving():  # else few of the steps would see one that serves
            self.work(2)

    @rule(model=st.sampled_from([*MODELS]), count=st.integers(2, 2 * MAX_OVERTAKING))
    def flood(self, model: str, count: int) -> None:
        for _ in range(count):
            self.submit(True, model, None, False)

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

    @rule(slots=st.sampled_from([1, 2, 4]))
    @precondition(lambda self: self.world.children)
    def work(self, slots: int) -> None:
        """What a good worker does next."""
        if self.starting():
            self.world.ready(slots)
        elif self.world.ending:
            self.end(ENDED if not self.world.killed else CRASH)
        elif self.held:
            self.world.done(self.world.supervisor.line.held[self.held[0]])

    def end(self, end: Exit) -> None:
        for job_id in self.held if not self.world.stopping else ():
            self.deaths[job_id] = self.deaths.get(job_id, 0) + 1
            own = not end.from_outside and not self.world.suspended and len(self.held) == 1
            self.own_alone[job_id] = self.own_alone.get(job_id, 0) + own
        self.world.die(end)

    @rule(slots=st.sampled_from([1, 2, 4, 2 * MAX_OVERTAKING]))
    @precondition(serving)
    def ready(self, slots: int) -> None:
        self.world.ready(slots)

    @rule(phase=st.sampled_from(["weights", "download"]))
    @precondition(lambda self: self.starting())
    def progress(self, phase: str) -> None:
        self.world.progress(phase)

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

    @rule(count=st.integers(2, 2 * MAX_OVERTAKING))
    @precondition(lambda self: self.serving() and self.held)
    def work_off(self, count: int) -> None:
        for _ in range(count):
            if self.serving() and self.held:
                self.world.done(self.world.supervisor.line.held[self.held[0]])

    @rule(what=st.sampled_from(["crash", "killed", "ended", "garbage", "suspended", "load", "spawn"]))
    @precondition(lambda self: self.world.children)
    def trouble(self, what: str) -> None:
        world = self.world
        if what in ENDS:
            self.end(ENDS[what])
        elif what == "garbage":
            world.supervisor.on_garbage("junk", world.now)
        elif what == "suspended":
            world.suspended = not world.suspended
        elif what == "load" and self.starting():
            wanting = world.supervisor.line.wanting(world.spawned[-1])
            world.frame(Failed(LOAD, "out_of_memory", "no"))
            assert {world.code(job) for job in wanting} <= {"out_of_memory"}
        elif what == "spawn" and self.starting() and world.supervisor.life.progress is None:
            world.children -= 1
            world.supervisor.on_spawn_failed(world.now)

    @rule()
    @precondition(lambda self: self.serving() and self.held)
    def crash_and_come_back(self) -> None:
        """Somebody comes who waits behind those who are suspect now."""
        self.end(CRASH)
        self.world.advance(MAX_BACKOFF_S)
        self.submit(True, self.world.spawned[-1], None, True)

    @rule()
    def all_leave(self) -> None:
        for job in [job for job in self.asked if not job.answered]:
            self.withdrawn.add(job.id)
            self.world.withdraw(job)

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
            lane = line.lanes[job.model]
            places = [job.id in line.held, job in lane.waiting, job in lane.suspects, job.id in lane.loaders]
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
        assert list(line.alive) == sorted(line.alive)
        for lane in line.lanes.values():
            for ids in ([job.id for job in lane.waiting], [job.id for job in lane.suspects], list(lane.loaders)):
                assert ids == sorted(ids)
        running = self.world.running
        assert len(running) == len(set(running))

    @invariant()
    def nobody_is_overtaken_more_often_than_allowed(self) -> None:
        assert max(self.world.overtaken.values(), default=0) <= MAX_OVERTAKING

    @invariant()
    def a_worker_that_holds_nothing_gives_way(self) -> None:
        supervisor = self.world.supervisor
        if self.serving() and not self.held and not supervisor._leaving:
            assert not supervisor.line.rivals(self.world.spawned[-1])

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
            assert self.world.state in ("loading", "ready", "unloading")
        if self.world.children:
            assert supervisor.life.phase is not Phase.GONE

    @invariant()
    def no_slot_is_left_free(self) -> None:
        supervisor = self.world.supervisor
        model = self.world.spawned[-1] if self.serving() else "a"
        lane = supervisor.line.lanes[model]
        if self.serving() and lane.waiting and not lane.suspects and not supervisor._leaving:
            ready = supervisor.life.ready
            assert ready is not None
            if not all(rival.may_be_overtaken for rival in supervisor.line.rivals(model, lane.waiting[0].id)):
                return
            alone = any(job.suspect for job in supervisor.line.held.values())
            assert alone or len(supervisor.line.held) >= supervisor.setbacks[model].slots(ready.slots)

    @invariant()
    def idle_only_when_idle(self) -> None:
        supervisor = self.world.supervisor
        if supervisor.idle.at_s is not None:
            assert self.serving()
            assert not supervisor.line.alive
            assert not supervisor.line.held
        elif self.serving() and self.world.spawned[-1] != "c":
            assert supervisor.line.alive or supervisor.line.held

    @invariant()
    def blame_and_backoff_have_their_bounds(self) -> None:
        for job in self.asked:
            assert self.world.waited_s.get(job.id, 0.0) <= MAX_BACKOFF_S + 1e-6
            assert job.deaths_alone <= 2
            assert job.deaths_outside <= 5
            if job.id in self.world.answers and self.world.code(job) == "worker_crash":
                assert self.deaths.get(job.id, 0) >= 2
            if not job.answered:
                assert self.own_alone.get(job.id, 0) < 2, "a poison is tried for ever"
            assert job.deaths_alone + job.deaths_outside <= self.deaths.get(job.id, 0)

    def teardown(self) -> None:
        """From any state a well-behaved worker brings everything to its end, and serves whoever comes then."""
        if not hasattr(self, "world"):
            return
        world, began_s = self.world, self.world.now
        world.suspended = False
        if self.drains:
            self.unloads.append(world.job(run=False))
            world.supervisor.drain(self.unloads[-1], world.now)
        self.settle()
        assert all(job.answered for job in self.asked), "lost"
        assert all(job.id in world.answers for job in self.unloads)
        assert world.now - began_s <= 2 * MAX_BACKOFF_S + 5, "starved"
        if world.supervisor.draining:
            assert not world.children
            return
        for model in MODELS:
            job = world.job(model=model)
            self.asked.append(job)
            world.supervisor.submit(job, world.now)
            self.settle()
            assert world.code(job) is None, "a model that nobody can be served with any more"

    def settle(self) -> None:
        world = self.world
        for _ in range(400):
            if self.starting():
                world.ready(4)
            elif self.serving() and self.held:
                for job_id in self.held:
                    world.done(world.supervisor.line.held[job_id])
            elif world.ending and world.children:
                assert world.killed or Stop() in world.sent
                world.die(ENDED if not world.killed else CRASH)
            elif world.supervisor.line.alive or any(job.id not in world.answers for job in self.unloads):
                world.advance(1.0)
            else:
                break


TestWorkerLife = WorkerLife.TestCase
TestWorkerLife.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
