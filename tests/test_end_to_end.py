"""The whole house with the embedded checkpoint, as a user has it: a daemon, HTTP, the shell client, a real worker."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from tests.daemon_process import ENVIRONMENT, Daemon
from tests.demo_daemon import PICTURES, caption, demo_daemon
from vision_server.catalog import EMBEDDED
from vision_server.engine import Florence
from vision_server.outlines import agrees
from vision_server.tasks import answer, of_token, sentence
from vision_server.training.questions import PROMPTS
from vision_server.training.samples import FOLDER

CLIENT = Path(__file__).parents[1] / "clients" / "vision-client.sh"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    with contextlib.ExitStack() as stack:
        yield lambda *words: stack.enter_context(demo_daemon(tmp_path, *words))


def listed() -> list[tuple[Path, dict[str, Any]]]:
    """Each bundled picture with each question about it."""
    pictures = json.loads((FOLDER / "truth.json").read_text(encoding="utf-8"))["pictures"]
    return [(FOLDER / one["file"], question) for one in pictures for question in one["asked"]]


def ask(daemon: Daemon, picture: Path, question: dict[str, Any]) -> Any:
    region = ",".join(map(str, question["region"] or ()))
    return caption(daemon, picture, question["prompt"], question["text"], region)


def opened(picture: Path) -> Image.Image:
    with Image.open(picture) as file:
        image: Image.Image = file.convert("RGB")
    return image


@pytest.fixture(scope="module")
def truly() -> list[Any]:
    """What the engine says to every question, asked alone and without any daemon."""
    florence = Florence.load(EMBEDDED, device="cpu", dtype="float32")
    said = []
    for picture, question in listed():
        image = opened(picture)
        words = sentence(of_token(question["prompt"]), question["text"], question["region"], image.size)
        said.append(answer(question["prompt"], florence.generate([(image, words)])[0].text, image.size))
    return said


def of_prompt(answers: list[Any], token: str) -> dict[Path, Any]:
    """By picture."""
    return {picture: one for (picture, asked), one in zip(listed(), answers, strict=True) if asked["prompt"] == token}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What a daemon says to every question, all asked at once, so that they share batches."""
    with demo_daemon(tmp_path_factory.mktemp("daemon")) as daemon, ThreadPoolExecutor(16) as pool:
        assert daemon.call("/status")[1]["state"] == "unloaded"
        answers = list(pool.map(lambda one: ask(daemon, *one), listed()))
        assert daemon.call("/status")[1]["loads"] == 1
    return answers


def test_every_answer_through_http_is_the_engines_own(said: list[Any], truly: list[Any]) -> None:
    assert said == truly


@pytest.mark.parametrize("token", PROMPTS)
def test_a_prompt_is_answered_rightly_through_http(said: list[Any], token: str) -> None:
    """Most of the known answers of each prompt: to the letter, boxes by half, outlines by three fifths."""
    right = [
        agrees(result, answer(token, question["truth"], size), size)
        for (picture, question), result in zip(listed(), said, strict=True)
        if question["prompt"] == token and (size := opened(picture).size)
    ]
    assert len(right) >= 3
    assert sum(right) >= 2 / 3 * len(right)


def test_a_worker_killed_during_captions_loses_none(start: Callable[..., Daemon], truly: list[Any]) -> None:
    daemon = start()
    caption(daemon, PICTURES[0])
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(caption, daemon, picture, "OD") for picture in PICTURES * 4]
        while (status := daemon.call("/status")[1])["in_flight"] < 2:
            assert not all(one.done() for one in asked), "the captions were over before the kill"
        psutil.Process(status["worker_pid"]).kill()
        answers = [one.result() for one in asked]
    assert answers == [of_prompt(truly, "<OD>")[picture] for picture in PICTURES * 4]
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


def test_the_shell_client(start: Callable[..., Daemon], truly: list[Any]) -> None:
    daemon = start()
    environment = {**ENVIRONMENT, "VISION_HOST": daemon.url}

    def client(*words: str) -> str:
        done = subprocess.run([CLIENT, *words], capture_output=True, text=True, timeout=60, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    assert client("model") == "demo"
    assert client("prompts").split() == list(PROMPTS)
    assert client("CAPTION", str(PICTURES[0])) == of_prompt(truly, "<CAPTION>")[PICTURES[0]]
    assert json.loads(client("OD", str(PICTURES[0]))) == of_prompt(truly, "<OD>")[PICTURES[0]]
