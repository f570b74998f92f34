"""GPU memory for the log, with a driver that is not there, one that fails, and one that takes its time."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

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
