"""A daemon of the real worker with the embedded checkpoint, and how tests ask it natively. Not a test."""

from __future__ import annotations

import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.daemon_process import ENVIRONMENT, Daemon
from vision_server.training.samples import FOLDER

PICTURES = sorted(path for path in FOLDER.iterdir() if path.suffix != ".json")


@contextmanager
def demo_daemon(folder: Path, *words: str, more: str = "") -> Iterator[Daemon]:
    """`folder` gets the configuration, to which `more` adds lines; `words` are flags."""
    config = folder / "config.yaml"
    config.write_text(f"model: demo\ndtype: float32\nport: 0\n{more}")
    command = [sys.executable, "-m", "vision_server", "--config", str(config), *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            yield Daemon(process)
        finally:
            process.kill()


def caption(daemon: Daemon, picture: Path, prompt: str = "CAPTION", text: str = "", region: str = "") -> Any:
    query = urllib.parse.urlencode({"prompt": prompt, "text_input": text, "region": region})
    status, body = daemon.call(f"/process_image?{query}", picture.read_bytes())
    assert status == 200, body
    return body["result"]
