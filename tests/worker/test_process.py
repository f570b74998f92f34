"""Real child processes: frames, log lines, every kind of end, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from vision_server.worker.process import Child, Exit, spawn
from vision_server.worker.protocol import Done, Frame, Hello, Progress, ProtocolError, Ready, Run, Stop

FAKE = [sys.executable, "-m", "tests.fake_worker"]
HELLO = Hello("/nowhere", "toy")
WAIT_S = 20


class Ear:
    """A listener that keeps what it hears; `until` waits for it."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.lines: list[str] = []
        self.garbage: list[ProtocolError] = []
        self.end: Exit | None = None
        self._heard = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []

    def on_start(self, child: Child) -> None:
        child.send(HELLO)

    def on_frame(self, child: Child, frame: Frame) -> None:
        self.frames.append(frame)
        self._tell()

    def on_garbage(self, child: Child, error: ProtocolError) -> None:
        self.garbage.append(error)
        self._tell()

    def on_line(self, child: Child, line: str) -> None:
        self.lines.append(line)
        self._tell()

    def on_end(self, child: Child, end: Exit) -> None:
        assert self.end is None
        self.end = end
        self._tell()

    def _tell(self) -> None:
        async def tell() -> None:
            async with self._heard:
                self._heard.notify_all()

        self._tasks.append(asyncio.get_running_loop().create_task(tell()))

    async def until(self, kind: type[Frame] | None = None) -> None:
        """Until a frame of `kind` has come; without one, until the end."""
        await self.until_true(lambda: any(isinstance(f, kind) for f in self.frames) if kind else self.end is not None)

    async def until_true(self, condition: Callable[[], bool]) -> None:
        async with self._heard:
            await asyncio.wait_for(self._heard.wait_for(condition), WAIT_S)


def run(text: str, image: bytes = b"") -> Run:
    return Run(1, "r1", "<CAPTION>", text, image=image)


async def start(*arguments: str) -> tuple[Child, Ear]:
    ear = Ear()
    child = await spawn([*FAKE, *arguments], ear)
    await ear.until(Ready)
    return child, ear


def open_fds() -> int:
    return psutil.Process().num_fds()


@pytest.mark.parametrize(
    ("text", "returncode", "from_outside"),
    [("crash", -signal.SIGABRT, False), ("kill", -signal.SIGKILL, True), ("exit0", 0, False), ("half", 0, False)],
)
async def test_each_end_is_told_apart(text: str, returncode: int, from_outside: bool) -> None:
    child, ear = await start()
    child.send(run(text))
    await ear.until()
    assert ear.end == Exit(returncode, from_outside)
    assert not psutil.pid_exists(child.pid)


async def test_stop_ends_it_and_nothing_stays_open() -> None:
    await (await _stopped()).until()  # the loop's own helpers are open from here on
    before = open_fds()
    for _ in range(3):
        await (await _stopped()).until()
    assert open_fds() == before
    assert not psutil.Process().children()


async def _stopped() -> Ear:
    child, ear = await start()
    child.send(Stop())
    await ear.until()
    assert ear.end == Exit(0, False)
    child.send(Stop())  # to one that is gone: goes nowhere, harms nobody
    return ear


async def test_our_own_kill_is_not_from_outside() -> None:
    child, ear = await start()
    child.kill_tree()
    child.kill_tree()
    await ear.until()
    assert ear.end == Exit(-signal.SIGKILL, False)


async def with_family(tmp_path: Path, how: str) -> tuple[Child, Ear, psutil.Process]:
    """A worker that has started a process of its own, which is the last of these."""
    note = tmp_path / "grandchild"
    child, ear = await start()
    child.send(run(how, os.fsencode(note)))
    while not (note.exists() and note.read_text()):
        ear.frames.clear()
        await ear.until(Progress)
    return child, ear, psutil.Process(int(note.read_text()))


@pytest.mark.parametrize("how", ["child", "stray"])
async def test_the_whole_tree_is_killed(tmp_path: Path, how: str) -> None:
    child, ear, grandchild = await with_family(tmp_path, how)
    child.kill_tree()
    await ear.until()
    assert await asyncio.to_thread(_gone, grandchild)


@pytest.mark.parametrize("how", ["child", "stray"])
@pytest.mark.parametrize("end", [signal.SIGKILL, Stop()])
async def test_what_a_dead_worker_started_does_not_outlive_it(tmp_path: Path, how: str, end: int | Stop) -> None:
    child, ear, grandchild = await with_family(tmp_path, how)
    if isinstance(end, Stop):
        child.send(end)
    else:
        os.kill(child.pid, end)
    await ear.until()
    assert ear.end == (Exit(0, False) if isinstance(end, Stop) else Exit(-signal.SIGKILL, True))
    assert await asyncio.to_thread(_gone, grandchild)


async def test_another_workers_family_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    child, ear, grandchild = await with_family(tmp_path / "a", "stray")
    other, others_ear, _ = await with_family(tmp_path / "b", "stray")
    other.kill_tree()
    await others_ear.until()
    assert grandchild.is_running()
    child.kill_tree()
    await ear.until()
    assert await asyncio.to_thread(_gone, grandchild)


def _comes_true(condition: Callable[[], bool]) -> bool:
    give_up_s = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < give_up_s:
        time.sleep(0.001)
    return condition()


def _gone(process: psutil.Process) -> bool:
    """An orphan is reaped by the system's first process; where that one does not, it stays as a zombie."""
    _, alive = psutil.wait_procs([process], timeout=WAIT_S)
    return not alive or process.status() == psutil.STATUS_ZOMBIE


async def test_garbage_is_reported_once_and_nothing_after_it() -> None:
    child, ear = await start()
    child.send(run("garbage"))
    await ear.until_true(lambda: bool(ear.garbage))
    child.kill_tree()
    await ear.until()
    assert len(ear.garbage) == 1


async def test_standard_error_comes_as_lines() -> None:
    child, ear = await start()
    child.send(run("noise"))
    await ear.until(Done)
    child.send(Stop())
    await ear.until()
    assert ear.lines == ["a native library speaks"]


async def test_endless_lines_do_not_fill_memory() -> None:
    ear = Ear()
    script = "import os; [os.write(2, b'x' * 65536) for _ in range(32)]; os.write(2, b'end')"
    await spawn([sys.executable, "-c", script], ear)
    await ear.until()
    assert sum(map(len, ear.lines)) == 32 * 65536 + 3
    assert max(map(len, ear.lines)) <= 16_384 + 65_536 * 4


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
async def test_it_keeps_the_memory_that_it_asks_for_again() -> None:
    """The second time the pages are there already: no page fault for each 4 KiB of 64 MiB."""
    code = (
        "import resource, sys\n"
        "for _ in range(2):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    bytearray(64 << 20)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, file=sys.stderr)\n"
    )
    ear = Ear()
    await spawn([sys.executable, "-c", code], ear)
    await ear.until()
    first, second = map(int, ear.lines)
    assert first > 10_000
    assert second < 1_000


async def test_a_suspended_process_is_seen() -> None:
    child, ear = await start()
    assert not child.is_stopped()
    os.kill(child.pid, signal.SIGSTOP)
    assert await asyncio.to_thread(_comes_true, child.is_stopped)
    child.kill_tree()
    await ear.until()
    assert not child.is_stopped()
    assert child.rss_bytes() is None


async def test_a_command_that_cannot_run_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nothing-here"):
        await spawn([str(tmp_path / "nothing-here")], Ear())


def test_the_worker_ends_when_the_daemon_does() -> None:
    """A daemon that is killed cannot tell its worker, which sees the end of its input."""
    script = (
        "import asyncio, sys\n"
        "from tests.worker.test_process import Ear, start\n"
        "async def main():\n"
        "    child, ear = await start()\n"
        "    print(child.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    with psutil.Popen([sys.executable, "-c", script], stdout=-1, cwd=Path(__file__).parents[2]) as daemon:
        worker = psutil.Process(int(daemon.stdout.readline()))
        daemon.kill()
        assert _gone(worker)
