"""Daemons in processes of their own, whose memory can be measured: without a model, or with the embedded checkpoint."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.daemon_process import ENVIRONMENT, Daemon

Start = Callable[..., Daemon]


@contextlib.contextmanager
def running(module: str, *words: str) -> Iterator[Daemon]:
    """`python -m module --port 0 words`, ended with all its processes."""
    command = [sys.executable, "-m", module, "--port", "0", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            yield Daemon(process)
        finally:
            daemon = psutil.Process(process.pid)
            for one in (*daemon.children(recursive=True), daemon):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()


@contextlib.contextmanager
def without_model(folder: Path, *words: str) -> Iterator[Daemon]:
    (folder / "toy").mkdir(exist_ok=True)
    (folder / "toy" / "config.json").write_text("{}")
    with running("tests.fake_daemon", "--model", str(folder / "toy"), "--prompts", "FAKE", *words) as daemon:
        yield daemon


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a daemon whose worker has no model; the words are flags."""
    with contextlib.ExitStack() as stack:
        yield lambda *words: stack.enter_context(without_model(tmp_path, *words))


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that waits less than half a second for a head or a body."""
    with without_model(tmp_path_factory.mktemp("impatient"), "--body-timeout", "0.4") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with without_model(tmp_path_factory.mktemp("patient")) as daemon:
        yield daemon


def rss_bytes(daemon: Daemon) -> int:
    return int(psutil.Process(daemon.process.pid).memory_info().rss)


def forget_peak(daemon: Daemon) -> None:
    """`peak_bytes` counts from here on."""
    Path(f"/proc/{daemon.process.pid}/clear_refs").write_text("5")


def peak_bytes(daemon: Daemon) -> int:
    """The most main memory that the daemon itself ever had, or has had since `forget_peak`."""
    for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")
