"""The whole house with the embedded checkpoint, as a user has it: a daemon, HTTP, the shell client, a real worker."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from tests.daemon_process import ENVIRONMENT, Daemon
from vision_server.catalog import EMBEDDED
from vision_server.engine import Florence
from vision_server.tasks import answer, of_token, sentence
from vision_server.training.demo_config import PROMPTS
from vision_server.training.samples import FOLDER

CLIENT = Path(__file__).parents[1] / "clients" / "vision-client.sh"
PICTURES = sorted(path for path in FOLDER.iterdir() if path.suffix != ".json")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    config = tmp_path / "config.yaml"
    config.write_text("model: demo\ndtype: float32\nport: 0\n")
    with contextlib.ExitStack() as stack:

        def begin(*words: str) -> Daemon:
            command = [sys.executable, "-m", "vision_server", "--config", str(config), *words]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT))
            stack.callback(process.kill)
            return Daemon(process)

        yield begin


def caption(daemon: Daemon, picture: Path, prompt: str = "CAPTION", options: str = "") -> Any:
    status, body = daemon.call(f"/process_image?prompt={prompt}{options}", picture.read_bytes())
    assert status == 200, body
    return body["result"]


@pytest.fixture(scope="module")
def truly() -> dict[tuple[str, str], Any]:
    """What the engine says of every sample and prompt, asked alone and without any daemon."""
    florence = Florence.load(EMBEDDED, device="cpu", dtype="float32")
    said = {}
    for picture in PICTURES:
        with Image.open(picture) as opened:
            image = opened.convert("RGB")
        for token in PROMPTS:
            text = florence.generate([(image, sentence(of_token(token), "", None, image.size))])[0].text
            said[picture.name, token] = answer(token, text, image.size)
    return said


def test_every_sample_and_prompt_through_http(start: Callable[..., Daemon], truly: dict[tuple[str, str], Any]) -> None:
    """All at once, so that they share batches; each answer is the engine's own for that picture alone."""
    daemon = start()
    assert daemon.call("/status")[1]["state"] == "unloaded"
    with ThreadPoolExecutor(16) as pool:
        asked = {
            (picture.name, token): pool.submit(caption, daemon, picture, token.strip("<>"))
            for picture in PICTURES
            for token in PROMPTS
        }
        answers = {key: one.result() for key, one in asked.items()}
    assert answers == truly
    assert daemon.call("/status")[1]["loads"] == 1


def test_a_worker_killed_during_captions_loses_none(
    start: Callable[..., Daemon], truly: dict[tuple[str, str], Any]
) -> None:
    daemon = start()
    caption(daemon, PICTURES[0])
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(caption, daemon, picture, "OD") for picture in PICTURES * 4]
        while (status := daemon.call("/status")[1])["in_flight"] < 2:
            assert not all(one.done() for one in asked), "the captions were over before the kill"
        psutil.Process(status["worker_pid"]).kill()
        answers = [one.result() for one in asked]
    assert answers == [truly[picture.name, "<OD>"] for picture in PICTURES * 4]
    after = daemon.call("/status")[1]
    assert (after["loads"], after["queue_depth"], after["in_flight"]) == (2, 0, 0)


def test_after_the_idle_time_no_worker_is_left_and_the_next_request_brings_one(start: Callable[..., Daemon]) -> None:
    daemon = start("--idle-timeout", "0.5")
    first = caption(daemon, PICTURES[1])
    process = psutil.Process(daemon.process.pid)
    gone, alive = psutil.wait_procs(process.children(recursive=True), timeout=30)
    assert gone
    assert not alive
    assert process.children(recursive=True) == []
    assert daemon.call("/status")[1]["state"] == "unloaded"
    assert daemon.call("/health")[0] == daemon.call("/ready")[0] == 200
    assert caption(daemon, PICTURES[1]) == first
    assert daemon.call("/status")[1]["loads"] == 2


def test_the_shell_client(start: Callable[..., Daemon], truly: dict[tuple[str, str], Any]) -> None:
    daemon = start()
    environment = {**ENVIRONMENT, "VISION_HOST": daemon.url}

    def client(*words: str) -> str:
        done = subprocess.run([CLIENT, *words], capture_output=True, text=True, timeout=60, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    assert client("model") == "demo"
    assert client("prompts").split() == list(PROMPTS)
    assert client("CAPTION", str(PICTURES[0])) == truly[PICTURES[0].name, "<CAPTION>"]
    assert json.loads(client("OD", str(PICTURES[0]))) == truly[PICTURES[0].name, "<OD>"]
