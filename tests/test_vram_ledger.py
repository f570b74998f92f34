"""On a GPU: twenty loads and releases, and what the driver says of its memory and its processes before and after."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.demo_daemon import PICTURES, caption, demo_daemon

TURNS = 20
WAIT_S = 30.0
NOISE_MIB = 16  # the driver rounds, and its own bookkeeping moves by some MiB


def driver(query: str, field: str) -> list[int]:
    """A column of nvidia-smi's, which comes with the driver: a number a line, none where there is nothing to list."""
    command = ["nvidia-smi", f"--query-{query}={field}", "--format=csv,noheader,nounits"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True).stdout
    return [int(line) for line in said.split() if line.isdigit()]


def used_mib() -> int:
    return sum(driver("gpu", "memory.used"))


def processes() -> list[int]:
    """Of this machine or, in a container, of its host: there the numbers mean nothing here, but their count does."""
    return driver("compute-apps", "pid")


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="needs the driver's nvidia-smi")
def test_the_memory_is_back_after_every_release(tmp_path: Path) -> None:
    with demo_daemon(tmp_path, "--device", "cuda", "--dtype", "float16") as daemon:
        before_mib, strangers = used_mib(), len(processes())
        for turn in range(TURNS):
            assert caption(daemon, PICTURES[turn % len(PICTURES)])
            status = daemon.call("/status")[1]
            assert status["device"].startswith("cuda")
            assert used_mib() > before_mib + NOISE_MIB, "the model is on the GPU"
            assert len(processes()) <= strangers + 1, "the worker alone is there"
            assert daemon.process.pid not in processes()
            assert daemon.call("/unload", b"")[0] == 200
            assert not psutil.pid_exists(status["worker_pid"])
            give_up_s = time.monotonic() + WAIT_S
            while used_mib() > before_mib + NOISE_MIB:
                assert time.monotonic() < give_up_s, f"turn {turn}: {used_mib()} MiB, before {before_mib}"
            assert len(processes()) == strangers
