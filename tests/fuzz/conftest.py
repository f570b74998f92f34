"""Daemons in processes of their own, real ones and ones with the worker that has no model."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.daemon_process import ENVIRONMENT, Daemon

REAL = ("vision_server",)
FAKE = ("tests.fake_daemon",)


class Start(Protocol):
    """Start `python -m MODULE ...` with flags of the server; it ends with the test module."""

    def __call__(self, *words: str, command: tuple[str, ...] = FAKE) -> Daemon: ...


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    toy = tmp_path_factory.mktemp("checkpoint") / "toy"
    toy.mkdir()
    (toy / "config.json").write_text("{}")
    with contextlib.ExitStack() as stack:

        def begin(*words: str, command: tuple[str, ...] = FAKE) -> Daemon:
            return stack.enter_context(_running(toy, command, words))

        yield begin


@contextlib.contextmanager
def _running(toy: Path, command: tuple[str, ...], words: tuple[str, ...]) -> Iterator[Daemon]:
    config = toy.parent / "config.yaml"
    config.write_text(f"model: {json.dumps(str(toy))}\nprompts: [<FAKE>]\nport: 0\ndevice: cpu\n")
    run = [sys.executable, "-m", *command, "--config", str(config), *words]
    with subprocess.Popen(run, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stderr is not None
        try:
            daemon = Daemon(process)
            reader = threading.Thread(target=process.stderr.read)  # native decoders are talkative, and a pipe fills up
            reader.start()
            yield daemon
        finally:
            process.terminate()
            process.wait(30)
            reader.join(30)
