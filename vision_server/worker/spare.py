"""A worker process that is started before its model is known: kept, ended, or handed to who needs a worker.

It decides nothing; when one is wanted is `standby`'s. Until it is handed over it says nothing, since no Hello was said;
it is told what to expect at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..log import relay
from .process import Child, Exit, Listener
from .protocol import Expect, Frame, ProtocolError

log = logging.getLogger(__name__)


class Spare:
    """The first listener of one process. `on_gone` is called when that ends here, but not once it is handed over."""

    def __init__(self, on_gone: Callable[[], None], expect: Expect | None = None) -> None:
        self._on_gone = on_gone
        self._expect = expect
        self._child: Child | None = None
        self._heir: Listener | None = None
        self._is_ended = False
        self._gone = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """None while the process is being started."""
        return self._child.pid if self._child else None

    @property
    def is_handed_over(self) -> bool:
        return self._heir is not None

    def hand_over(self, heir: Listener) -> None:
        """From now on the process reports to `heir`, its start first, as if that had started it."""
        self._heir = heir
        if self._child is not None:
            self._child.listener = heir
            heir.on_start(self._child)

    def end(self) -> None:
        """End the process, which has nothing to lose; `wait` returns when it is gone."""
        self._is_ended = True
        if self._child is not None:
            self._child.kill_tree()

    def give_up(self) -> None:
        """The process could not be started."""
        self._gone.set()
        self._on_gone()

    async def wait(self) -> None:
        """Until the process is gone."""
        await self._gone.wait()

    # What the process reports (its Listener).

    def on_start(self, child: Child) -> None:
        self._child = child
        if self._expect is not None:
            child.send(self._expect)
        if self._heir is not None:
            self.hand_over(self._heir)
            return
        log.info("worker %d is started ahead", child.pid)
        if self._is_ended:
            child.kill_tree()

    def on_frame(self, child: Child, frame: Frame) -> None:
        self._refuse(child, f"a {type(frame).__name__}")

    def on_garbage(self, child: Child, error: ProtocolError) -> None:
        self._refuse(child, str(error))

    def on_line(self, child: Child, line: str) -> None:
        relay(line)

    def on_end(self, child: Child, end: Exit) -> None:
        log.log(logging.INFO if self._is_ended else logging.WARNING, "spare worker %d has ended (%s)", child.pid, end)
        self.give_up()

    def _refuse(self, child: Child, what: str) -> None:
        log.error("the spare worker %d sent %s before it was spoken to", child.pid, what)
        child.kill_tree()
