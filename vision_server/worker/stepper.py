"""What the worker does between two token steps: let requests in, let them go, step, answer. No torch, no pipe.

The engine is handed in, so this is tested with one that has no model. A picture that fails alone never hurts the ones
it shares a step with; when memory is short for all of them together, they go on in halves.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from ..errors import OutOfMemory, VisionError
from ..tasks import of_token, sentence
from .decode import decode
from .protocol import Cancel, Done, Failed, Frame, Options, Progress, Ready, Run

log = logging.getLogger(__name__)

_REPORT_EVERY_S = 0.25
_INTERNAL = "The server failed at this request; its log has the details under the request's id."


class Generation(Protocol):
    """What is read of the engine's answer."""

    text: str
    token_ids: list[int]
    finish_reason: str
    prompt_tokens: int
    encode_s: float
    generate_s: float


class Engine(Protocol):
    """What is used of `engine.Florence`."""

    @property
    def busy(self) -> bool: ...

    def submit(self, image: Image.Image, prompt_text: str, options: Any) -> int: ...

    def step(self) -> list[tuple[int, Any]]: ...

    def cancel(self, ticket: int) -> None: ...


@dataclass(frozen=True)
class Prepared:
    """A request as the engine wants it: the picture decoded, the sentence written. `size` is the upright picture's in
    pixels, which `image` may be smaller than."""

    run: Run
    image: Image.Image
    size: tuple[int, int]
    sentence: str
    decode_s: float


@dataclass(frozen=True)
class Row:
    """A running request. Without its picture: decoded ones are large, and the engine has taken what it needs."""

    run: Run
    size: tuple[int, int]
    decode_s: float


Inbox = queue.SimpleQueue[Run | Prepared | Failed | Cancel]


def prepare(run: Run, max_pixels: int, target: tuple[int, int] | None = None) -> Prepared | Failed:
    """Decode the picture and write the sentence, or say what is wrong with them. `target` is what `decode` means."""
    began_s = time.perf_counter()
    try:
        picture = decode(run.image, max_pixels, target)
        text = sentence(of_token(run.task), run.text, run.region, picture.size)
    except Exception as error:
        return failed(run, error)
    return Prepared(run, picture.image, picture.size, text, time.perf_counter() - began_s)


def failed(run: Run, error: Exception) -> Failed:
    """How an error goes to the client: ours as it is, any other (and what is behind ours) only into the log."""
    if isinstance(error, VisionError):
        if error.__cause__ is not None:
            log.info("%s: %s", error, error.__cause__, extra={"request_id": run.request_id})
        return Failed(run.id, error.code, str(error))
    log.error("request failed", exc_info=error, extra={"request_id": run.request_id})
    return Failed(run.id, VisionError.code, _INTERNAL)


class Stepper:
    """The loop around the engine, for one thread. Other threads speak to it through `inbox`.

    Into the inbox goes a Run as soon as it has come, so that a Cancel of it counts, and then what `prepare` made of it.
    `say` sends a frame; `prepare` is for those that must start over, too; `to_options` makes the engine's options;
    `memory` tells the device memory held, in bytes; `release` gives up what the engine keeps without need; `banned`
    goes with every answer.
    """

    def __init__(
        self,
        engine: Engine,
        inbox: Inbox,
        ready: Ready,
        say: Callable[[Frame], None],
        prepare: Callable[[Run], Prepared | Failed],
        to_options: Callable[[Options], object],
        memory: Callable[[], int] = lambda: 0,
        release: Callable[[], None] = lambda: None,
        banned: tuple[str, ...] = (),
    ) -> None:
        self.ready = ready
        self.prepare = prepare
        self._inbox = inbox
        self._engine = engine
        self._say = say
        self._to_options = to_options
        self._memory = memory
        self._release = release
        self._banned = banned
        self._open: set[int] = set()  # taken on, not answered
        self._cancelled: set[int] = set()  # before their picture was decoded
        self._backlog: deque[Prepared] = deque()
        self._running: dict[int, Row] = {}  # by the engine's ticket
        self._reported_s = 0.0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to step until something comes."""
        return not self._running and not self._backlog

    def turn(self) -> None:
        """One round: what has come, then one step. Waits only when there is nothing to step."""
        self._receive()
        self._admit()
        if self._engine.busy:
            self._step()

    def _receive(self) -> None:
        if self.idle:
            self._take(self._inbox.get())
        while True:
            try:
                self._take(self._inbox.get_nowait())
            except queue.Empty:
                return

    def _take(self, item: Run | Prepared | Failed | Cancel) -> None:
        if isinstance(item, Run):
            self._open.add(item.id)
            return
        if isinstance(item, Cancel):
            self._cancel(item.id)
            return
        run_id = item.id if isinstance(item, Failed) else item.run.id
        if run_id in self._cancelled:
            self._answer(Failed(run_id, Failed.CANCELLED, Failed.CANCELLED))
        elif isinstance(item, Failed):
            self._answer(item)
        else:
            self._backlog.append(item)

    def _cancel(self, run_id: int) -> None:
        if run_id not in self._open:
            return  # the answer is on its way
        for ticket, row in self._running.items():
            if row.run.id == run_id:
                self._engine.cancel(ticket)
                del self._running[ticket]
                break
        else:
            waiting = [prepared for prepared in self._backlog if prepared.run.id != run_id]
            if len(waiting) == len(self._backlog):
                self._cancelled.add(run_id)
                return
            self._backlog = deque(waiting)
        self._answer(Failed(run_id, Failed.CANCELLED, Failed.CANCELLED))

    def _admit(self) -> None:
        while self._backlog and len(self._running) < self.ready.slots:
            prepared = self._backlog.popleft()
            try:
                options = self._to_options(prepared.run.options)
                ticket = self._engine.submit(prepared.image, prepared.sentence, options)
            except Exception as error:
                self._answer(failed(prepared.run, error))
            else:
                self._running[ticket] = Row(prepared.run, prepared.size, prepared.decode_s)

    def _step(self) -> None:
        try:
            finished = self._engine.step()
        except OutOfMemory as error:
            self._make_room(error)
            return
        for ticket, generation in finished:
            self._answer(_done(self._running.pop(ticket), generation, self._banned))
        now_s = time.monotonic()
        if now_s - self._reported_s >= _REPORT_EVERY_S:
            self._reported_s = now_s
            self._say(Progress("step", len(self._running), 0, self._memory()))

    def _make_room(self, error: OutOfMemory) -> None:
        """Start what was running over in halves, and stay with that number; one alone cannot be helped."""
        for ticket in self._running:
            self._engine.cancel(ticket)
        runs, self._running = [row.run for row in self._running.values()], {}
        self._release()
        if len(runs) == 1:
            self._answer(failed(runs[0], error))
            return
        slots = len(runs) // 2
        log.warning("out of memory with %d requests; from now on %d at a time", len(runs), slots)
        waiting, self._backlog = self._backlog, deque()
        for run in runs:
            self._take(self.prepare(run))
        self._backlog += waiting
        self.ready = Ready(self.ready.model, self.ready.device, self.ready.dtype, slots, self._memory())
        self._say(self.ready)

    def _answer(self, frame: Done | Failed) -> None:
        self._open.discard(frame.id)
        self._cancelled.discard(frame.id)
        self._say(frame)


def _done(row: Row, generation: Generation, banned: tuple[str, ...]) -> Done:
    return Done(
        id=row.run.id,
        text=generation.text,
        width=row.size[0],
        height=row.size[1],
        finish_reason=generation.finish_reason,
        prompt_tokens=generation.prompt_tokens,
        new_tokens=len(generation.token_ids),
        decode_s=row.decode_s,
        encode_s=generation.encode_s,
        generate_s=generation.generate_s,
        banned=banned,
    )
