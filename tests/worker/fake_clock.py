"""An event loop whose clock runs only when nothing is left to do, and a worker without a process. Not a test."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar, cast

import pytest

from vision_server.worker import memory, runner
from vision_server.worker.process import Child, Exit, Listener
from vision_server.worker.protocol import Done, Frame, Hello, Ready, Run, Stop

T = TypeVar("T")
LOAD_S, RUN_S, STOP_S = 0.9, 0.05, 0.02


class _Selector(selectors.DefaultSelector):
    """Instead of waiting it puts the loop's clock forward."""

    loop: Loop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        assert ready or timeout is not None, "nothing will ever happen again"
        if not ready:
            self.loop.now += timeout or 0.0
        return ready


class Loop(asyncio.SelectorEventLoop):
    """`now` is its clock, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


class Worker:
    """Stands for a `process.Child`, whose process loads and answers by the loop's clock."""

    pid = 1
    alive = 0

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._running = True
        Worker.alive += 1
        assert Worker.alive == 1, "two workers"
        listener.on_start(cast(Child, self))

    def send(self, frame: Frame) -> None:
        if isinstance(frame, Hello):
            self._later(LOAD_S, Ready(frame.model, "cpu", "float32", 2))
        elif isinstance(frame, Run):
            self._later(RUN_S, Done(frame.id, frame.text, 8, 8, "stop", 3, 3, 0.0, 0.0, RUN_S))
        elif isinstance(frame, Stop):
            self._end(Exit(0, from_outside=False))

    def kill_tree(self) -> None:
        self._end(Exit(-9, from_outside=False))

    def is_stopped(self) -> bool:
        return False

    def rss_bytes(self) -> int:
        return 0

    def _later(self, seconds: float, frame: Frame) -> None:
        self._loop.call_later(seconds, self._say, frame)

    def _say(self, frame: Frame) -> None:
        if self._running:
            self._listener.on_frame(cast(Child, self), frame)

    def _end(self, end: Exit) -> None:
        if self._running:
            self._running = False
            self._loop.call_later(STOP_S, self._gone, end)

    def _gone(self, end: Exit) -> None:
        Worker.alive -= 1
        self._listener.on_end(cast(Child, self), end)


async def _spawn(command: Sequence[str], listener: Listener) -> Child:
    return cast(Child, Worker(listener))


async def _no_gpu(back_to: int | None = None) -> int | None:
    return None


def run(main: Coroutine[Any, Any, T], monkeypatch: pytest.MonkeyPatch) -> T:
    """Run `main` in such a loop, in which every worker is such a one."""
    replaced: Mapping[Any, tuple[str, Any]] = {runner: ("spawn", _spawn), memory: ("used_bytes", _no_gpu)}
    for owner, (name, ours) in replaced.items():
        monkeypatch.setattr(owner, name, ours)
    Worker.alive = 0
    loop = Loop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()
