"""A daemon in a process of its own whose worker has no model; it answers `prompt|text|bytes of the picture`."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon_process import ENVIRONMENT, Daemon


@contextlib.contextmanager
def started(module: str, config: Path, **settings: object) -> Iterator[str]:
    """The URL of a daemon with these settings."""
    config.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in {"port": 0, **settings}.items()))
    command = [sys.executable, "-m", module, "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            yield Daemon(process).url
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def fake_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """It wants the key `s3cret`."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "config.json").write_text("{}")
    config = folder / "config.yaml"
    with started("tests.fake_daemon", config, model=str(folder), prompts=["<FAKE>"], api_key="s3cret") as url:
        yield url


@pytest.fixture(scope="module")
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The embedded checkpoint."""
    config = tmp_path_factory.mktemp("demo") / "config.yaml"
    with started("vision_server", config, model="demo", dtype="float32", device="cpu") as url:
        yield url
