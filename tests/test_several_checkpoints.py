"""Two real checkpoints behind one daemon, asked in turn over HTTP: each answers as it does alone, and there is never
more than one worker."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from tests.daemon_process import ENVIRONMENT, Daemon
from tests.tiny import Shape, write_checkpoint
from vision_server.catalog import EMBEDDED
from vision_server.engine import Florence
from vision_server.tasks import answer, of_token, sentence
from vision_server.training.samples import FOLDER

PICTURE = min(path for path in FOLDER.iterdir() if path.suffix != ".json")
TOKENS = 12
CONFIG = """
port: 0
dtype: float32
models:
  demo:
  tiny: {{model: "{tiny}", idle_timeout_s: 0.5, prompts: ["<CAPTION>"]}}
"""


def said_alone(directory: Path) -> Any:
    florence = Florence.load(directory, device="cpu", dtype="float32")
    with Image.open(PICTURE) as opened:
        image = opened.convert("RGB")
    prompt = sentence(of_token("<CAPTION>"), "", None, image.size)
    text = florence.generate([(image, prompt)], max_new_tokens=TOKENS)[0].text
    return answer("<CAPTION>", text, image.size)


@contextmanager
def watched(daemon: psutil.Process) -> Iterator[set[int]]:
    """The workers of the daemon, looked at a hundred times a second; two at one time fail the test."""
    seen: set[int] = set()
    too_many: list[list[psutil.Process]] = []
    enough = threading.Event()

    def watch() -> None:
        while not enough.wait(0.01):
            now = daemon.children()
            seen.update(process.pid for process in now)
            if len(now) > 1:
                too_many.append(now)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        enough.set()
        thread.join()
    assert not too_many


def test_two_checkpoints_take_turns_and_the_second_is_released(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", Shape("beside-the-demo", text={"max_position_embeddings": 1024}))
    truly = {"demo": said_alone(EMBEDDED), "tiny": said_alone(tmp_path / "tiny")}
    assert truly["demo"] != truly["tiny"]
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(tiny=(tmp_path / "tiny").as_posix()), encoding="utf-8")
    command = [sys.executable, "-m", "vision_server", "--config", str(config)]

    def ask(model: str) -> Any:
        query = f"?prompt=CAPTION&max_new_tokens={TOKENS}&model={model}"
        status, body = daemon.call(f"/process_image{query}", PICTURE.read_bytes())
        assert status == 200, body
        return body["result"]

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            daemon = Daemon(process)
            assert daemon.call("/model")[1] == "demo"
            with watched(psutil.Process(process.pid)) as seen:
                for name, means in (("tiny", "tiny"), ("demo:latest", "demo"), ("TINY", "tiny")):
                    assert ask(name) == truly[means]
                while (status := daemon.call("/status")[1])["state"] != "unloaded":
                    pass
            assert (status["models"], status["restarts"]) == (["demo", "tiny"], 0)
            assert status["loads"] == status["unloads"] == len(seen)
            assert psutil.Process(process.pid).children(recursive=True) == []
            assert daemon.call("/process_image?prompt=CAPTION&model=base", PICTURE.read_bytes())[0] == 404
        finally:
            process.kill()
