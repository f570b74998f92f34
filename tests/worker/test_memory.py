"""GPU memory for the log, with a driver that is not there, one that fails, and one that takes its time."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import psutil
import pytest

from tests.queueing import TOY, finished, opened, request, until
from vision_server.worker import memory


class Driver(ModuleType):
    """A stand-in for pynvml; `readings` are what its one device says, one after the other."""

    class NVMLError(Exception):
        pass

    def __init__(self, readings: list[int], broken: bool = False) -> None:
        super().__init__("pynvml")
        self.readings = readings
        self.broken = broken
        self.open = 0
        self.when_read: Callable[[], None] = lambda: None

    def nvmlInit(self) -> None:
        if self.broken:
            raise self.NVMLError
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, device: int) -> SimpleNamespace:
        if not self.readings:
            raise self.NVMLError
        self.when_read()
        return SimpleNamespace(used=self.readings.pop(0))


async def test_without_the_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert await memory.used_bytes() is None


@pytest.mark.parametrize("driver", [Driver([], broken=True), Driver([])])
async def test_a_driver_that_fails(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert await memory.used_bytes() is None
    assert driver.open == 0


async def test_it_waits_until_the_memory_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver([100 << 20, 5 << 30, 2 << 30, 120 << 20])
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    before = await memory.used_bytes()
    assert before == 100 << 20
    assert await memory.used_bytes(back_to=before) == 120 << 20
    assert (driver.readings, driver.open) == ([], 0)


def lines(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if word in record.getMessage()]


async def test_the_next_worker_waits_until_the_memory_of_the_last_one_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A request comes as soon as the worker is released; its own worker starts after the last reading."""
    driver = Driver([100 << 20, 5 << 30, 5 << 30, 120 << 20, 120 << 20])
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    caplog.set_level(logging.INFO)
    async with opened(idle_timeout_s=0.1) as queue:
        states: list[tuple[str, int]] = []
        driver.when_read = lambda: states.append((queue.status().state, len(psutil.Process().children())))
        await finished(queue.submit(request()))
        await until(lambda: queue.status().state == "unloading")
        await finished(queue.submit(request()))
        assert [state for state, _ in states] == ["loading", *["unloading"] * 3, "loading"]
        assert [processes for _, processes in states[1:4]] == [0, 0, 0]
        assert lines(caplog, "GPU memory in use") == ["GPU memory in use: 100 MiB before the load, 120 MiB now"]
        driver.readings += [120 << 20] * 10


async def test_a_release_is_logged_before_and_after_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    caplog.set_level(logging.INFO)
    async with opened(idle_timeout_s=0.1) as queue:
        await queue.load(TOY)
        status = queue.status()
        assert status.worker_rss_bytes
        await until(lambda: queue.status().state == "unloaded")
        assert not psutil.pid_exists(status.worker_pid or 0)
        released, held, ended = (record.getMessage() for record in caplog.records[-3:])
        assert released == "the worker is released: idle"
        assert held.startswith(f"worker {status.worker_pid} holds ")
        held_mib = int(held.split()[3])
        assert held_mib == pytest.approx(status.worker_rss_bytes >> 20, abs=8)
        assert held.endswith(" MiB of main memory, 0 MiB of GPU memory")
        assert ended == f"worker {status.worker_pid} has ended (exit code 0)"


async def test_memory_that_others_have_taken_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Driver([100 << 20, *[5 << 30] * 1000]))
    monkeypatch.setattr(memory, "_PATIENCE_S", 0.2)
    async with opened(idle_timeout_s=0) as queue:
        for _ in range(2):
            await finished(queue.submit(request()))
