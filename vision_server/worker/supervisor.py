"""The life of the worker, decided: when one is started, fed, ended, replaced, and what becomes of the requests.

Plain and synchronous. Events come in as method calls that carry the time (`now`, monotonic seconds); what is to be done
goes out through `Effects`, which must not call back. `runner` performs it with real processes and a real clock, the
tests with a fake one. `next_wakeup_s` says when `tick` has something to do: timers, never a poll loop.

    state      a process?  how it is left
    unloaded   no          ensure_ready -> loading
    loading    soon, yes   Ready -> ready; Failed, stalled, or died too often -> failed
    ready      yes         idle, unload or shutdown -> unloading; died or hung -> loading, or unloaded if nobody waits
    unloading  yes         its end -> unloaded or failed, and from there -> loading if somebody waits
    failed     no          ensure_ready -> loading, after a back-off

Only `ensure_ready` starts anything, and only when no process is left: there are never two workers. `line` knows who
goes next and who is to blame, `life` what the process is at, `setbacks` how long to wait for the next one.
"""

from __future__ import annotations

import logging

from ..errors import Busy, CannotServe, DeadlinePassed, LoadFailed, VisionError, WorkerCrash, from_code
from .life import GARBAGE, LOAD_FAILED, SHUTDOWN, Death, Effects, Life, Limits, Phase
from .line import MAX_BACKOFF_S, Job, Line
from .process import Exit
from .protocol import LOAD, Cancel, Done, Failed, Frame, Progress, Ready
from .setbacks import Setbacks

log = logging.getLogger(__name__)

_CRASH = "The worker crashed on this request, twice. Its picture or its options may be the cause."
_KILLED = "The worker was ended from outside each time it had this request; its machine may be short of memory."
_NEVER = float("inf")


class Supervisor:
    """See the table above. Everything public but the event methods is for reading."""

    def __init__(self, limits: Limits, effects: Effects) -> None:
        self.line = Line()
        self.life = Life(limits, effects)
        self.failure: VisionError | None = None
        self.idle_at_s: float | None = None
        self.draining = False
        self._limits = limits
        self._effects = effects
        self._setbacks = Setbacks()
        self._leaving: list[Job] = []  # who waits for the worker's end
        self._last_id_before_end = -1  # while somebody waits for it: jobs after this one wait for the next worker
        self._keep_alive_s = limits.idle_timeout_s
        self._start_at_s: float | None = None  # in back-off
        self._give_up_at_s = _NEVER

    @property
    def state(self) -> str:
        if self.life.phase is Phase.ENDING:
            return "unloading"
        if self.life.phase is Phase.READY:
            return "ready"
        if self.life.phase is Phase.STARTING or self._start_at_s is not None:
            return "loading"
        return "unloaded" if self.failure is None else "failed"

    @property
    def load_phase(self) -> str | None:
        """What the loading is at, in the worker's words; None when nothing is being loaded."""
        if self._start_at_s is not None:
            return "back-off"
        if self.life.phase is not Phase.STARTING:
            return None
        return self.life.progress.phase if self.life.progress else "starting"

    @property
    def has_room(self) -> bool:
        """Whether a request that came now would go to the worker at once."""
        return not self.line.depth and not self._leaving and len(self.line.held) < self.life.slots

    # What clients ask for.

    def submit(self, job: Job, now: float) -> None:
        """Take a job on: a request, or without a Run the wish for a loaded model."""
        if self._start_at_s is not None:
            job.backoff_s = max(0.0, self._start_at_s - now)  # it shares what is left of it
        self.line.add(job)
        self.idle_at_s = None
        self._go_on(now)

    def withdraw(self, job: Job, now: float) -> None:
        """Whoever asked has left. A job that is answered already, or was never taken on, is left alone."""
        if job in self._leaving:
            self._leaving.remove(job)
        elif job.id in self.line.alive:
            self.line.answered(job)
            self._cancel(job)
        self._go_on(now)

    def unload(self, job: Job, now: float, *, force: bool) -> None:
        """End the worker and answer `job` then. Raises Busy while there is work, unless forced to finish that first."""
        if self.line.alive and not force:
            raise Busy("The model is in use. Try again later, or add force=1 to finish the queue first.")
        self._leaving.append(job)
        self._last_id_before_end = job.id
        self._go_on(now)

    def drain(self, job: Job, now: float) -> None:
        """Finish what is here within the grace, end the worker, answer `job`. Nothing may be submitted any more."""
        self.draining = True
        self._give_up_at_s = min(self._give_up_at_s, now + self._limits.shutdown_grace_s)
        self.unload(job, now, force=True)

    def close(self, job: Job, now: float) -> None:
        """Like `drain` without the grace."""
        self._give_up_at_s = now
        self.drain(job, now)
        self.tick(now)
        if self.life.phase is not Phase.GONE:
            self.life.kill(SHUTDOWN)

    # What the worker does.

    def on_frame(self, frame: Frame, now: float) -> None:
        if self.life.downloading:
            self.line.postpone(self.life.advance_s, now)
        self.life.advance_s = now
        if isinstance(frame, Progress):
            self.life.progress = frame
        elif isinstance(frame, Ready) and frame.slots > 0:
            if self.life.take_ready(frame, now):
                self.failure = None
                self._setbacks.note_load()
        elif isinstance(frame, Failed) and frame.id == LOAD and self.life.phase is not Phase.READY:
            self._on_load_failed(frame, now)
        elif isinstance(frame, Done | Failed) and (job := self.line.released(frame.id)):
            self._setbacks.note_answer()
            if not job.answered:
                self._answer(job, frame if isinstance(frame, Done) else from_code(frame.code, frame.message))
        else:
            self.on_garbage(f"an unexpected {type(frame).__name__}", now)
        self._go_on(now)

    def on_garbage(self, what: str, now: float) -> None:
        """The worker does not speak the protocol, so nothing it holds will be answered."""
        log.error("the worker sent %s", what)
        if self.life.can_be_stopped:
            self.life.kill(GARBAGE)
        self._go_on(now)

    def on_end(self, end: Exit, now: float) -> None:
        """The process is gone and everything it wrote has been seen."""
        death = self.life.end(end)
        if death is None:
            self.line.held.clear()
        else:
            self._on_death(death, now)
        self._go_on(now)

    def on_spawn_failed(self, now: float) -> None:
        """The operating system would not start the process."""
        self.life.spawn_failed()
        self._setbacks.note_failure(now)
        self._fail_load(LoadFailed("The worker process could not be started; the server's log says why."))
        self._go_on(now)

    # What time does.

    def tick(self, now: float) -> None:
        """Do what is due. Harmless at any time."""
        if not self.life.downloading:
            for job in self.line.expired(now):
                log.warning("request %s: its time is over", job.run.request_id if job.run else "(load)")
                self._answer(job, DeadlinePassed("The request took longer than the server allows. Try again later."))
                self._cancel(job)
        if now >= self._give_up_at_s:
            self._give_up(now)
        if self._start_at_s is not None and now >= self._start_at_s:
            self._start_at_s = None
            if self.line.alive:
                self.life.spawn(now)
        if now >= self.life.due_s(busy=bool(self.line.held)):
            self.life.lose_patience()
        elif self.idle_at_s is not None and now >= self.idle_at_s:
            self.life.stop(now, "idle")
        self._go_on(now)

    @property
    def next_wakeup_s(self) -> float | None:
        """When `tick` is to be called next; None when only an event can change anything."""
        times = [self._start_at_s, self.life.due_s(busy=bool(self.line.held)), self.idle_at_s, self._give_up_at_s]
        if not self.life.downloading:
            times.append(self.line.next_deadline_s())
        return min((t for t in times if t is not None and t != _NEVER), default=None)

    # How it is done.

    def ensure_ready(self, now: float) -> None:
        """Start a worker unless there is one, soon, or not yet gone. The only way to one."""
        if self.life.phase is not Phase.GONE or self._start_at_s is not None:
            return
        delay_s = self.line.charge_backoff(max(0.0, self._setbacks.not_before_s - now))
        if delay_s > 0:
            self._start_at_s = now + delay_s
        else:
            self.life.spawn(now)

    def _go_on(self, now: float) -> None:
        """After every event: feed the worker, start or end it, set the idle clock."""
        if self.life.phase is Phase.READY:
            self._feed(now)
        if self._leaving and not self.line.busy_until(self._last_id_before_end):
            self._leave(now)
        if self.line.alive:
            self.ensure_ready(now)
        else:
            self._start_at_s = None
        idle = self.life.phase is Phase.READY and not self.line.alive and not self.line.held
        if not idle or self._keep_alive_s < 0:
            self.idle_at_s = None
        elif self.idle_at_s is None:
            self.idle_at_s = now + self._keep_alive_s

    def _feed(self, now: float) -> None:
        if not self.line.held:
            self.life.advance_s = now
        last_id = self._last_id_before_end if self._leaving else None
        for loader in [job for job in self.line.loaders.values() if last_id is None or job.id <= last_id]:
            self._answer(loader, None)
        while job := self.line.next(self.life.slots, last_id):
            assert job.run is not None
            job.sent_s = now
            loaded_s = self.life.started_s + (self.life.last_load_s or 0.0)
            job.load_s = max(0.0, loaded_s - max(job.arrived_s, self.life.started_s))
            self._effects.send(job.run)

    def _leave(self, now: float) -> None:
        if self.life.can_be_stopped:
            self.life.stop(now, SHUTDOWN if self.draining else "unload")
        elif self.life.phase is Phase.GONE:
            leaving, self._leaving = self._leaving, []
            for job in leaving:
                job.answered = True
                self._effects.answer(job, None)

    def _answer(self, job: Job, result: Done | VisionError | None) -> None:
        self.line.answered(job)
        self._keep_alive_s = self._limits.idle_timeout_s if job.keep_alive_s is None else job.keep_alive_s
        self._effects.answer(job, result)

    def _cancel(self, job: Job) -> None:
        """Nobody waits for this job any more; the worker learns of it if it holds it."""
        if job.id in self.line.held and self.life.phase is Phase.READY:
            self._effects.send(Cancel(job.id))

    def _give_up(self, now: float) -> None:
        """The grace of a shutdown is over."""
        self._give_up_at_s = _NEVER
        self._answer_all(CannotServe("The server is shutting down."))
        if self.life.can_be_stopped:
            self.life.stop(now, SHUTDOWN)

    def _on_load_failed(self, frame: Failed, now: float) -> None:
        if self.life.phase is Phase.STARTING:
            error = from_code(frame.code, frame.message)
            self._setbacks.note_failure(now)
            self._fail_load(error if isinstance(error, CannotServe) else LoadFailed(frame.message))
            self.life.stop(now, LOAD_FAILED)

    def _on_death(self, death: Death, now: float) -> None:
        self._setbacks.note_failure(now)
        held = ", ".join(job.run.request_id for job in self.line.held.values() if job.run)
        doing = f"holding {held or 'nothing'}" if death.was_ready else "while loading"
        log.error("the worker died (%s) %s", death.cause, doing)
        for job in self.line.bury(from_outside=death.from_outside):
            if job.deaths_alone:
                self._setbacks.note_answer()  # explained: nobody else has to wait for it
            self._answer(job, WorkerCrash(_CRASH if job.deaths_alone else _KILLED))
        if not death.was_ready:
            error = self._setbacks.note_load_death(death.cause, from_outside=death.from_outside)
            if error is not None:
                self._fail_load(error)

    def _fail_load(self, error: VisionError) -> None:
        log.error("the model could not be loaded: %s", error)
        error.retry_after_s = MAX_BACKOFF_S
        self.failure = error
        self._answer_all(error)

    def _answer_all(self, error: VisionError) -> None:
        for job in list(self.line.alive.values()):
            self._answer(job, error)
