"""A daemon that is killed cannot end its worker: the real one sees it and ends, whatever it is at."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from vision_server.catalog import EMBEDDED
from vision_server.training.samples import FOLDER

WAIT_S = 120
DAEMON = """
import asyncio, sys
from pathlib import Path
from vision_server.jobs import Hello, Model, Request, open_queue
directory, checkpoint, picture = sys.argv[1:]
async def main():
    hello = Hello(checkpoint, "demo", "cpu", "float32", max_batch=1)
    command = [sys.executable, "-m", "tests.worker.faulty_child", directory]
    async with open_queue([Model(hello)], command=command, standby=True) as queue:
        while queue.status().standby_pid is None:
            await asyncio.sleep(0.001)
        print(queue.status().standby_pid, flush=True)
        if picture:
            await queue.submit(Request("r", "demo", Path(picture).read_bytes(), "<CAPTION>"))
        await asyncio.sleep(600)
asyncio.run(main())
"""


@contextlib.contextmanager
def daemon(directory: Path, picture: Path | str) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A process with a queue in it, which asks about `picture`; and its worker, which was its spare before."""
    command = [sys.executable, "-c", DAEMON, str(directory), str(EMBEDDED), str(picture)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        try:
            yield process, psutil.Process(int(process.stdout.readline()))
        finally:
            process.kill()


def until(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_s, "waited in vain"
        time.sleep(0.005)


def is_gone(process: psutil.Process) -> bool:
    """An orphan is reaped by the system's first process; where that one does not, it stays as a zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def meet(directory: Path) -> None:
    """Wait until the worker has come to where it is to wait, and end what it has started there."""
    until((directory / "there").exists)
    _, *family = map(int, (directory / "there").read_text().split())
    for pid in family:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("phase", ["importing", "loading", "decoding", "generating", "writing"])
def test_a_worker_ends_when_its_daemon_is_killed(phase: str, tmp_path: Path) -> None:
    (tmp_path / "fault-0").write_text(f"{phase} wait")
    with daemon(tmp_path, FOLDER / "scene-02.png") as (process, worker):
        meet(tmp_path)
        process.kill()
        until(lambda: is_gone(worker))


def test_so_does_a_spare(tmp_path: Path) -> None:
    with daemon(tmp_path, "") as (process, spare):
        until(lambda: any("libtorch" in mapped.path for mapped in spare.memory_maps()))
        process.kill()
        until(lambda: is_gone(spare))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends when it goes on")
def test_so_does_one_that_was_suspended(tmp_path: Path) -> None:
    (tmp_path / "fault-0").write_text("generating wait")
    with daemon(tmp_path, FOLDER / "scene-02.png") as (process, worker):
        meet(tmp_path)
        worker.suspend()
        until(lambda: worker.status() == psutil.STATUS_STOPPED)
        process.kill()
        until(lambda: is_gone(worker))
