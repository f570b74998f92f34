"""Does what the supervisor decides: starts and ends the process, moves frames, arms the timer, wakes who waits.

The thin asynchronous shell around `supervisor`, and around `standby`, which has a process started ahead. Everything
runs on one event loop, so an event is handled whole before the next; there are no locks, and a process has one owner.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, TypeVar

from ..errors import VisionError
from ..log import relay
from . import memory
from .lane import Job
from .life import Limits
from .process import Child, Exit, spawn
from .protocol import Done, Expect, Frame, Hello, ProtocolError, Stop
from .spare import Spare
from .standby import Standby
from .supervisor import Supervisor

log = logging.getLogger(__name__)

T = TypeVar("T")
WORKER = (sys.executable, "-m", "vision_server.worker.child")


class Runner:
    """One supervisor with a real clock and real processes. Make it inside the event loop it is to live in.

    `hellos` has what the worker of each model is told, `idle_timeouts_s` how long it may be idle; the default first.
    With `standby` there is a spare process from `begin` on.
    """

    def __init__(
        self,
        hellos: Mapping[str, Hello],
        idle_timeouts_s: Mapping[str, float],
        limits: Limits,
        command: Sequence[str] = WORKER,
        *,
        standby: bool = False,
    ) -> None:
        self.supervisor = Supervisor(idle_timeouts_s, limits, self)
        self.child: Child | None = None
        self.spare: Spare | None = None
        self._standby = Standby(self, kept=standby, for_swaps=len(hellos) > 1)
        self.hellos = hellos
        self._command = command
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._answers: dict[int, asyncio.Future[Done | VisionError | None]] = {}
        self._unsent: list[Frame] = []  # decided while the process was still being started
        self._kill_at_start = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._used_before: asyncio.Task[int | None] | None = None

    def now(self) -> float:
        """Monotonic seconds; the only clock of the worker's life."""
        return self._loop.time()

    def begin(self) -> None:
        """Start what is wanted before anybody asks."""
        self._happen(lambda now: None)

    @contextmanager
    def expect(self) -> Iterator[None]:
        """While somebody's request arrives, who will need a worker."""
        self._happen(lambda now: self._standby.expect())
        try:
            yield
        finally:
            self._happen(self._standby.expect_no_longer)

    async def ask(self, job: Job, event: Callable[[Job, float], None]) -> Done | None:
        """Hand `job` to the supervisor by `event` and wait for its answer. Cancelled, the job is taken back."""
        answer: asyncio.Future[Done | VisionError | None] = self._loop.create_future()
        self._answers[job.id] = answer
        try:
            self._happen(partial(event, job))
            result = await answer
        finally:
            del self._answers[job.id]
            if not job.answered:
                self._happen(partial(self.supervisor.withdraw, job))
        if isinstance(result, VisionError):
            raise copy(result)  # one failed load answers many; each raises its own
        return result

    async def finish(self) -> None:
        """After the supervisor was closed: leave no timer and no task behind."""
        if self.spare is not None:
            await self.spare.wait()
        await asyncio.gather(*self._tasks)
        if self._timer is not None:
            self._timer.cancel()

    def _happen(self, event: Callable[[float], None]) -> None:
        try:
            event(self.now())
        finally:
            self._standby.settle(self.supervisor.life.phase, self.now(), draining=self.supervisor.draining)
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wakeups_s = (self.supervisor.next_wakeup_s, self._standby.next_wakeup_s)
        due_s = min((at_s for at_s in wakeups_s if at_s is not None), default=None)
        self._timer = None if due_s is None else self._loop.call_at(due_s, self._happen, self.supervisor.tick)

    def _background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _start(self, spare: Spare | None = None) -> None:
        try:
            await spawn(self._command, spare or self)
        except Exception:  # whatever it is, those who wait for the worker must hear of it
            log.exception("the worker process could not be started")
            if spare is None or spare.is_handed_over:
                self._unsent.clear()
                self._happen(self.supervisor.on_spawn_failed)
            else:
                spare.give_up()

    async def _see_off(self, end: Exit, used_before: asyncio.Task[int | None]) -> None:
        """A worker is gone when its memory is, too: the next one may need it."""
        before = await used_before
        after = await memory.used_bytes(back_to=before) if before is not None else None
        if before is not None and after is not None:
            log.info("GPU memory in use: %d MiB before the load, %d MiB now", before >> 20, after >> 20)
        self.child = None
        self._happen(partial(self.supervisor.on_end, end))

    def _log_memory(self, child: Child) -> None:
        said = self.supervisor.life.progress or self.supervisor.life.ready
        log.info(
            "worker %d holds %d MiB of main memory, %d MiB of GPU memory",
            child.pid,
            (child.rss_bytes() or 0) >> 20,
            (said.memory_bytes if said else 0) >> 20,
        )

    # What the supervisor has done (its Effects).

    def spawn(self, model: str) -> None:
        self._kill_at_start = False
        self._unsent = [self.hellos[model]]
        # Asked beside the start: it takes the process longer to reach the device.
        self._used_before = self._background(memory.used_bytes())
        if self._standby.take():
            assert self.spare is not None
            spare, self.spare = self.spare, None
            spare.hand_over(self)
        else:
            self._background(self._start())

    def send(self, frame: Frame) -> None:
        if self.child is None:
            self._unsent.append(frame)
        else:
            if isinstance(frame, Stop):
                self._log_memory(self.child)
            self.child.send(frame)

    def kill(self) -> None:
        if self.child is None:
            self._kill_at_start = True
        else:
            self._log_memory(self.child)
            self.child.kill_tree()

    def is_stopped(self) -> bool:
        return self.child is not None and self.child.is_stopped()

    def answer(self, job: Job, result: Done | VisionError | None) -> None:
        future = self._answers.get(job.id)
        if future is not None and not future.done():
            future.set_result(result)

    # What the standby has done (its Effects).

    def start_spare(self) -> None:
        likely = next(iter(self.hellos.values())).directory
        self.spare = Spare(self._on_spare_gone, Expect(likely) if likely else None)
        self._background(self._start(self.spare))

    def end_spare(self) -> None:
        assert self.spare is not None
        self.spare.end()

    def _on_spare_gone(self) -> None:
        self.spare = None
        self._happen(self._standby.on_end)

    # What the process reports (its Listener).

    def on_start(self, child: Child) -> None:
        self.child = child
        log.info("worker %d is started", child.pid)
        unsent, self._unsent = self._unsent, []
        for frame in unsent:
            child.send(frame)
        if self._kill_at_start:
            child.kill_tree()

    def on_frame(self, child: Child, frame: Frame) -> None:
        self._happen(partial(self.supervisor.on_frame, frame))

    def on_garbage(self, child: Child, error: ProtocolError) -> None:
        self._happen(partial(self.supervisor.on_garbage, str(error)))

    def on_line(self, child: Child, line: str) -> None:
        relay(line)

    def on_end(self, child: Child, end: Exit) -> None:
        log.info("worker %d has ended (%s)", child.pid, end)
        assert self._used_before is not None
        self._background(self._see_off(end, self._used_before))
