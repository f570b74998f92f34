"""The life of the worker, decided: when one is started, fed, ended, replaced, and what becomes of the requests.

Plain and synchronous. Events come in as method calls that carry the time (`now`, monotonic seconds); what is to be done
goes out through `Effects`, which must not call back. `runner` performs it with real processes and a real clock, the
tests with a fake one. `next_wakeup_s` says when `tick` has something to do: timers, never a poll loop.

    state      a process?  how it is left
    unloaded   no          ensure_ready -> loading
    loading    soon, yes   Ready -> ready; Failed, stalled, or died too often -> failed
    ready      yes         idle, swap, unload, shutdown -> unloading; died, hung -> loading, unloaded if nobody waits
    unloading  yes         its end -> unloaded or failed, and from there -> loading if somebody waits
    failed     no          ensure_ready -> loading, after a back-off

Only `ensure_ready` starts one, out of a spare of `standby` or anew, when none is left: there are never two. One worker
has one model; for another it ends, at a moment when it holds no request. `line` knows who goes next and who is to
blame, `life` what the process is at, `setbacks`, one for each model, how long to wait before it is started again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import ceil

from ..errors import Busy, CannotServe, DeadlinePassed, LoadFailed, VisionError, WorkerCrash, from_code
from .idle import IdleClock
from .lane import Job
from .life import GARBAGE, LOAD_FAILED, SHUTDOWN, SWAP, Death, Effects, Life, Limits, Phase
from .line import MAX_BACKOFF_S, Line
from .process import Exit
from .protocol import LOAD, Cancel, Done, Failed, Frame, Progress, Ready
from .setbacks import Setbacks
from .transfer import Transfer

log = logging.getLogger(__name__)

_CRASH = "The worker crashed on this request, twice. Its picture or its options may be the cause."
_KILLED = "The worker was ended from outside each time it had this request; its machine may be short of memory."
_NEVER = float("inf")


class Supervisor:
    """See the table above, whose states `status` names. Everything public but the event methods is for reading.

    `idle_timeouts_s` has every model that may be asked for, and how long its worker may be idle.
    """

    def __init__(self, idle_timeouts_s: Mapping[str, float], limits: Limits, effects: Effects) -> None:
        self.line = Line(idle_timeouts_s)
        self.life = Life(limits, effects)
        self.setbacks = {model: Setbacks() for model in idle_timeouts_s}
        self.idle = IdleClock(idle_timeouts_s)
        self.leaving = False  # everything is still served, but not for long
        self.draining = False
        self._limits = limits
        self._effects = effects
        self._leaving: list[Job] = []  # who waits for the worker's end
        self._last_id_before_end = -1  # while somebody waits for it: jobs after this one wait for the next worker
        self._load_for_later = False  # somebody was told to come back when the download is done
        self._give_up_at_s = _NEVER

    @property
    def _last_id(self) -> int | None:
        return self._last_id_before_end if self._leaving else None

    # What clients ask for.

    def submit(self, job: Job, now: float) -> None:
        """Take a job on: a request, or without a Run the wish for a loaded model."""
        self.line.add(job)
        self.idle.stop()
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
        if self.life.transfer is not None:
            self.line.postpone(self.life.advance_s, now)
        self.life.advance_s = now
        if isinstance(frame, Progress):
            self.life.take_progress(frame, now)
        elif isinstance(frame, Ready) and frame.slots > 0:
            if self.life.take_ready(frame, now):
                self._present.note_load()
            elif self.life.phase is Phase.READY:
                self._present.note_lack(frame.slots)
        elif isinstance(frame, Failed) and frame.id == LOAD and self.life.phase is not Phase.READY:
            self._on_load_failed(frame, now)
        elif isinstance(frame, Done | Failed) and (job := self.line.released(frame.id)):
            self._present.note_answer(len(self.line.held) + 1 if isinstance(frame, Done) else 0)
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
        model, death = self._present_model, self.life.end(end)
        if death is None:
            self.line.held.clear()
        else:
            self._on_death(model, death, now)
        self._go_on(now)

    def on_spawn_failed(self, now: float) -> None:
        """The operating system would not start the process."""
        model = self._present_model
        self.life.spawn_failed()
        self.setbacks[model].note_failure(now)
        self._fail_load(model, LoadFailed("The worker process could not be started; the server's log says why."), now)
        self._go_on(now)

    # What time does.

    def tick(self, now: float) -> None:
        """Do what is due. Harmless at any time."""
        if self.life.transfer is None:
            for job in self.line.expired(now):
                about = {"request_id": job.run.request_id} if job.run else {}
                log.warning("its time is over" if job.run else "the time of a load is over", extra=about)
                self._answer(job, DeadlinePassed("The request took longer than the server allows. Try again later."))
                self._cancel(job)
        if now >= self._give_up_at_s:
            self._give_up(now)
        if now >= self.life.due_s(busy=bool(self.line.held)):
            self.life.lose_patience()
        elif self.idle.at_s is not None and now >= self.idle.at_s:
            self.life.stop(now, "idle")
        self._go_on(now)

    @property
    def next_wakeup_s(self) -> float | None:
        """When `tick` is to be called next; None when only an event can change anything."""
        held_back = self.line.next_start()
        times = [self.life.due_s(busy=bool(self.line.held)), self.idle.at_s, self._give_up_at_s]
        times.append(held_back[0] if held_back else None)
        if self.life.transfer is None:
            times.append(self.line.next_deadline_s())
        return min((t for t in times if t is not None and t != _NEVER), default=None)

    # How it is done.

    @property
    def _present_model(self) -> str:
        assert self.life.model is not None, "there is no worker"
        return self.life.model

    @property
    def _present(self) -> Setbacks:
        return self.setbacks[self._present_model]

    def ensure_ready(self, now: float) -> None:
        """Start a worker for the model whose turn it is, unless there is one still or all who wait are held back.

        The only way to a worker.
        """
        model = self.line.turn(self._last_id) if self.life.phase is Phase.GONE else None
        if model is not None:
            self.idle.begin()
            self._load_for_later = False
            self.life.spawn(model, now)

    def _go_on(self, now: float) -> None:
        """After every event: feed the worker, start or end it, set the idle clock."""
        self.line.hold_back(now, self.life.model, lambda model: self.setbacks[model].not_before_s)
        if self.life.phase is Phase.READY:
            self._feed(now)
        if self.life.transfer is not None and not self._limits.wait_for_download:
            self._turn_away(self.life.transfer, now)
        if self._leaving and not self.line.busy_until(self._last_id_before_end):
            self._leave(now)
        elif self._worker_is_of_no_use() and self.line.rivals(self._present_model, self._last_id):
            self.life.stop(now, SWAP)
        if self.line.alive:
            self.ensure_ready(now)
        if self.life.phase is not Phase.READY or self.line.alive or self.line.held:
            self.idle.stop()
        else:
            self.idle.run(self._present_model, now)

    def _worker_is_of_no_use(self) -> bool:
        """Whether nobody who may go now needs it; asked after it was fed."""
        if self.life.phase is Phase.STARTING:
            return self.line.lanes[self._present_model].first_id is None and not self._load_for_later
        return self.life.phase is Phase.READY and not self.line.held

    def _feed(self, now: float) -> None:
        if not self.line.held:
            self.life.advance_s = now
        model, last_id = self._present_model, self._last_id
        for loader in [job for job in self.line.lanes[model].loaders.values() if last_id is None or job.id <= last_id]:
            self._answer(loader, None)
        while job := self.line.next(model, self._present.slots(self.life.slots), last_id):
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
        self.idle.note_answer(job, self.life.model)
        self._effects.answer(job, result)

    def _cancel(self, job: Job) -> None:
        """Nobody waits for this job any more; the worker learns of it if it holds it."""
        if job.id in self.line.held and self.life.phase is Phase.READY:
            self._effects.send(Cancel(job.id))

    def _turn_away(self, transfer: Transfer, now: float) -> None:
        """Nobody is to wait for a download. It goes on all the same, for those who come back; a loader does wait."""
        left_s = transfer.left_s(now)
        words = f"The model {self._present_model} is being downloaded: {transfer}. Try again in {ceil(left_s)} s."
        for job in self.line.wanting(self._present_model):
            if job.run is not None:
                self._load_for_later = True
                self._answer(job, CannotServe(words, retry_after_s=left_s))

    def _give_up(self, now: float) -> None:
        """The grace of a shutdown is over."""
        self._give_up_at_s = _NEVER
        self._answer_all(list(self.line.alive.values()), CannotServe("The server is shutting down."))
        if self.life.can_be_stopped:
            self.life.stop(now, SHUTDOWN)

    def _on_load_failed(self, frame: Failed, now: float) -> None:
        if self.life.phase is Phase.STARTING:
            error = from_code(frame.code, frame.message)
            self._present.note_failure(now)
            failed = error if isinstance(error, CannotServe) else LoadFailed(frame.message)
            self._fail_load(self._present_model, failed, now)
            self.life.stop(now, LOAD_FAILED)

    def _on_death(self, model: str, death: Death, now: float) -> None:
        setbacks = self.setbacks[model]
        setbacks.note_failure(now)
        runs = {job.id: job.run.request_id for job in self.line.held.values() if job.run}
        doing = f"holding {', '.join(runs.values()) or 'nothing'}" if death.was_ready else "while loading"
        log.error("the worker of %s died (%s) %s", model, death.cause, doing)
        guilty = self.line.bury(model, from_outside=death.from_outside)
        for job in self.line.lanes[model].suspects:
            if job.id in runs:
                log.warning("retried: its worker died (%s)", death.cause, extra={"request_id": runs[job.id]})
        for job in guilty:
            if job.deaths_alone:
                setbacks.note_answer()  # explained: nobody else has to wait for it
            self._answer(job, WorkerCrash(_CRASH if job.deaths_alone else _KILLED))
        if not death.was_ready:
            error = setbacks.note_load_death(death.cause, from_outside=death.from_outside)
            if error is not None:
                self._fail_load(model, error, now)

    def _fail_load(self, model: str, error: VisionError, now: float) -> None:
        log.error("model %s could not be loaded: %s", model, error)
        error.retry_after_s = MAX_BACKOFF_S
        self.setbacks[model].note_failed_load(error, now)
        self._answer_all(self.line.wanting(model), error)

    def _answer_all(self, jobs: list[Job], error: VisionError) -> None:
        for job in jobs:
            self._answer(job, error)
