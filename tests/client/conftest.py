"""A daemon in a process of its own whose worker has no model; it answers `prompt|text|bytes of the picture`."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.client.many import Run
from tests.daemon_process import ENVIRONMENT, Daemon
from vision_server import cli


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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with three pictures of different sizes in bytes, one of them below."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for number, name in enumerate(("a.png", "b.jpg", "sub/c.webp")):
        Image.new("RGB", (16 + 40 * number, 16), "teal").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._a.png").write_bytes(b"what macOS leaves")
    return tmp_path


@pytest.fixture
def run(fake_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("VISION_HOST", fake_url)
    monkeypatch.setenv("VISION_API_KEY", "s3cret")

    def call(*words: str | Path, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.main(["caption", *map(str, words)])
        return code, *capsys.readouterr()

    return call
