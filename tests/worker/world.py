"""A fake clock and a fake worker process around a Supervisor: what it wants done is written down, nothing happens."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from vision_server.errors import Busy, VisionError
from vision_server.worker import status
from vision_server.worker.lane import Job
from vision_server.worker.life import Limits, Phase
from vision_server.worker.process import Exit
from vision_server.worker.protocol import Cancel, Done, Failed, Frame, Progress, Ready, Run, Stop
from vision_server.worker.supervisor import Supervisor

TOY = "toy"
CRASH = Exit(-11, from_outside=False)
KILLED = Exit(-9, from_outside=True)
ENDED = Exit(0, from_outside=False)


class World:
    """Plays both sides of a Supervisor. `now` is the clock; `advance` lets time pass and ticks when it is due."""

    def __init__(
        self,
        limits: Limits | None = None,
        timeout_s: float = 300.0,
        idle_timeout_s: float = 300.0,
        models: Mapping[str, float] | None = None,
    ) -> None:
        self.now = 1000.0
        self.timeout_s = timeout_s
        self.children = 0  # processes alive
        self.spawned: list[str] = []  # the models of all processes there ever were
        self.killed = self.stopping = self.suspended = False
        self.sent: list[Frame] = []  # to the present worker
        self.answers: dict[int, Done | VisionError | None] = {}
        self.waited_s: dict[int, float] = {}  # without a worker, by job id
        self.ids = count(1)
        self.supervisor = Supervisor(models or {TOY: idle_timeout_s}, limits or Limits(), self)

    # Effects

    def spawn(self, model: str) -> None:
        self.children += 1
        self.spawned.append(model)
        assert self.children == 1, "two workers"
        self.sent, self.killed, self.stopping = [], False, False

    def send(self, frame: Frame) -> None:
        assert self.children == 1
        self.sent.append(frame)
        self.stopping |= isinstance(frame, Stop)

    def kill(self) -> None:
        assert self.children == 1
        self.killed = True

    def is_stopped(self) -> bool:
        return self.suspended

    def answer(self, job: Job, result: Done | VisionError | None) -> None:
        assert job.id not in self.answers, "answered twice"
        self.answers[job.id] = result

    # What clients do

    def job(self, run: bool = True, keep_alive_s: float | None = None, model: str = TOY) -> Job:
        job = Job(next(self.ids), model, None, self.now, self.now + self.timeout_s, keep_alive_s)
        if run:
            job.run = Run(job.id, f"r{job.id}", "<CAPTION>")
        return job

    def submit(self, run: bool = True, keep_alive_s: float | None = None, model: str = TOY) -> Job:
        job = self.job(run, keep_alive_s, model)
        self.supervisor.submit(job, self.now)
        return job

    def withdraw(self, job: Job) -> None:
        self.supervisor.withdraw(job, self.now)

    def unload(self, force: bool = False) -> Job:
        job = self.job(run=False)
        try:
            self.supervisor.unload(job, self.now, force=force)
        except Busy:
            self.supervisor.withdraw(job, self.now)  # as the runner does, whatever was raised
            raise
        return job

    # What the worker does

    def frame(self, frame: Frame) -> None:
        self.supervisor.on_frame(frame, self.now)

    def ready(self, slots: int = 2) -> None:
        self.frame(Ready(self.spawned[-1], "cpu", "float32", slots))

    def progress(self, phase: str = "weights", done: int = 0, total: int = 0) -> None:
        self.frame(Progress(phase, done, total))

    def done(self, job: Job) -> None:
        self.frame(Done(job.id, "text", 8, 8, "stop", 3, 3, 0.1, 0.1, 0.1))

    def failed(self, job: Job, code: str = "bad_image") -> None:
        self.frame(Failed(job.id, code, "no"))

    def die(self, end: Exit = CRASH) -> None:
        self.children -= 1
        self.supervisor.on_end(end, self.now)

    def advance(self, seconds: float) -> None:
        """Let time pass as a loop's timer would: `tick` at each time that was asked for."""
        until = self.now + seconds
        while (due := self.supervisor.next_wakeup_s) is not None and due <= until:
            self._pass_to(max(self.now, due))
            self.supervisor.tick(self.now)
            again = self.supervisor.next_wakeup_s
            assert again is None or again > self.now or again != due, "a timer that does not move"
        self._pass_to(until)

    def _pass_to(self, now: float) -> None:
        if not self.children:
            for job_id in self.supervisor.line.alive:
                self.waited_s[job_id] = self.waited_s.get(job_id, 0.0) + now - self.now
        self.now = now

    # What can be seen

    @property
    def running(self) -> list[int]:
        """The ids sent to the present worker, in order."""
        return [frame.id for frame in self.sent if isinstance(frame, Run)]

    @property
    def cancels(self) -> list[int]:
        return [frame.id for frame in self.sent if isinstance(frame, Cancel)]

    @property
    def spawns(self) -> int:
        return len(self.spawned)

    @property
    def state(self) -> str:
        return status.state_of(self.supervisor)

    @property
    def model(self) -> str:
        return status.model_of(self.supervisor)

    @property
    def failure(self) -> VisionError | None:
        return status.failure_of(self.supervisor)

    @property
    def load_phase(self) -> str | None:
        return status.load_phase_of(self.supervisor)

    @property
    def ending(self) -> bool:
        return self.supervisor.life.phase is Phase.ENDING

    def code(self, job: Job) -> str | None:
        """The error that answered a job; None when it was done."""
        result = self.answers[job.id]
        return result.code if isinstance(result, VisionError) else None


def ready_world(slots: int = 2, limits: Limits | None = None, idle_timeout_s: float = 300.0) -> World:
    world = World(limits, idle_timeout_s=idle_timeout_s)
    job = world.submit(run=False)
    world.ready(slots)
    assert job.id in world.answers
    return world
