"""A real process that is started ahead: handed over at any moment, ended, dying, not starting."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.worker.test_process import FAKE, Ear
from vision_server.worker import standby
from vision_server.worker.life import Limits
from vision_server.worker.process import spawn
from vision_server.worker.protocol import Hello, Ready, Stop
from vision_server.worker.runner import Runner
from vision_server.worker.spare import Spare

WAIT_S = 20
TALKER = [sys.executable, "-c", "import sys, time; sys.stdout.write('hello'); sys.stdout.flush(); time.sleep(60)"]


class Gone:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@asynccontextmanager
async def running(*command: str, standby: bool = False) -> AsyncIterator[Runner]:
    runner = Runner({"toy": Hello("/nowhere", "toy")}, {"toy": 300.0}, Limits(), command or FAKE, standby=standby)
    runner.begin()
    try:
        yield runner
    finally:
        runner.supervisor.draining = True
        runner.begin()
        await asyncio.wait_for(runner.finish(), WAIT_S)
        assert not psutil.Process().children()


async def until(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_s, "waited in vain"
        await asyncio.sleep(0.001)


async def a_spare(runner: Runner, other_than: int | None = None) -> int:
    """Its process id, once it is there."""
    await until(lambda: runner.spare is not None and runner.spare.pid not in (None, other_than))
    assert runner.spare is not None
    assert runner.spare.pid is not None
    return runner.spare.pid


@pytest.mark.parametrize("when", ["before it runs", "when it runs"])
async def test_the_heir_hears_everything_from_the_start(when: str) -> None:
    gone, ear = Gone(), Ear()
    spare = Spare(gone)
    if when == "before it runs":
        spare.hand_over(ear)
        assert spare.pid is None
    child = await spawn(FAKE, spare)
    if when == "when it runs":
        spare.hand_over(ear)
    await ear.until(Ready)
    assert (spare.pid, spare.is_handed_over) == (child.pid, True)
    child.send(Stop())
    await ear.until()
    assert ear.end is not None
    assert gone.times == 0


@pytest.mark.parametrize("when", ["before it runs", "when it runs"])
async def test_it_is_ended_and_waited_for(when: str) -> None:
    gone = Gone()
    spare = Spare(gone)
    if when == "before it runs":
        spare.end()
    child = await spawn(FAKE, spare)
    spare.end()
    await asyncio.wait_for(spare.wait(), WAIT_S)
    assert gone.times == 1
    assert not psutil.pid_exists(child.pid)


async def test_one_that_speaks_unasked_is_ended() -> None:
    spare = Spare(Gone())
    child = await spawn(TALKER, spare)
    await asyncio.wait_for(spare.wait(), WAIT_S)
    assert not psutil.pid_exists(child.pid)


async def test_one_that_cannot_be_started_harms_nobody(tmp_path: Path) -> None:
    async with running(str(tmp_path / "nothing")) as runner:
        with runner.expect():
            await until(lambda: runner.spare is None)


async def test_one_that_dies_is_not_replaced_until_the_next_is_expected() -> None:
    async with running() as runner:
        with runner.expect():
            pid = await a_spare(runner)
            os.kill(pid, signal.SIGKILL)
            await until(lambda: runner.spare is None)
            assert not psutil.Process().children()
            with runner.expect():
                assert await a_spare(runner) != pid


async def test_with_standby_one_that_dies_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "_FIRST_BACKOFF_S", 0.01)
    async with running(standby=True) as runner:
        pid = await a_spare(runner)
        os.kill(pid, signal.SIGKILL)
        assert await a_spare(runner, other_than=pid) != pid


async def test_one_that_nobody_took_is_ended_by_its_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "LINGER_S", 0.05)
    async with running() as runner:
        with runner.expect():
            pid = await a_spare(runner)
        await until(lambda: runner.spare is None)
        assert not psutil.pid_exists(pid)
