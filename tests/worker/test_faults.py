"""The real worker with the embedded checkpoint, struck in every phase.

Each request is answered, rightly and once; there is never more than one worker; nothing that a dead one has started is
left.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from vision_server.catalog import EMBEDDED
from vision_server.engine import Florence
from vision_server.errors import CheckpointError, OutOfMemory, VisionError, WorkerCrash
from vision_server.jobs import Hello, Model, Outcome, Queue, Request, open_queue
from vision_server.training.samples import FOLDER

WAIT_S = 120
PHASES = ["importing", "loading", "decoding", "generating", "writing"]
FAULTS = ["SIGKILL", "SIGSTOP", "garbage", "exit0", "half"]
PICTURES = [FOLDER / f"scene-{number:02}.png" for number in (2, 4, 6)]


@pytest.fixture(scope="module")
def quiet() -> list[str]:
    """What the engine says to the pictures, each alone."""
    florence = Florence.load(EMBEDDED, device="cpu", dtype="float32")
    said = []
    for picture in PICTURES:
        with Image.open(picture) as file:
            said.append(florence.generate([(file.convert("RGB"), "What does the image describe?")])[0].text)
    assert len(set(said)) == len(PICTURES)
    return said


def request(picture: bytes | None = None, number: int = 0) -> Request:
    return Request(f"r{number}", "demo", picture or PICTURES[number].read_bytes(), "<CAPTION>")


async def until(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_s, "waited in vain"
        await asyncio.sleep(0.005)


class House:
    """A queue around real workers that meet faults; its clock can be put forward, so that no stall is waited for."""

    def __init__(self, queue: Queue, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue, self.directory = queue, directory
        self.ahead_s = 0.0
        self.answered: Counter[int] = Counter()
        self.families: list[psutil.Process] = []
        loop, runner = asyncio.get_running_loop(), queue._runner
        monkeypatch.setattr(loop, "time", lambda: time.monotonic() + self.ahead_s)
        answer = runner.answer

        def count(job: Any, result: Any) -> None:
            self.answered[job.id] += 1
            answer(job, result)

        monkeypatch.setattr(runner, "answer", count)

    def expect(self, *faults: tuple[str, str]) -> None:
        for number, (phase, how) in enumerate(faults):
            (self.directory / f"fault-{number}").write_text(f"{phase} {'wait' if how.isupper() else how}")

    async def met(self, how: str) -> None:
        """A worker has met its fault; what comes from outside is done to it, and the time of its stall passes."""
        there = self.directory / "there"
        await until(there.exists)
        worker, *family = map(int, there.read_text().split())
        there.unlink()
        for pid in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.families.append(psutil.Process(pid))
        if how.startswith("SIG"):
            os.kill(worker, signal.Signals[how])
        if how == "SIGSTOP":
            await until(lambda: psutil.Process(worker).status() == psutil.STATUS_STOPPED)
        if how in ("SIGSTOP", "HANG"):
            self.ahead_s += 121
        await until(lambda: not psutil.pid_exists(worker))
        self.ahead_s += 5  # no back-off is longer

    def ask(self, *numbers: int) -> asyncio.Future[list[Outcome]]:
        return asyncio.gather(*(self.queue.submit(request(number=number)) for number in numbers))

    def leave_in_order(self) -> None:
        assert not (self.directory / "two").exists(), "two workers at a time"
        assert set(self.answered.values()) <= {1}, "answered twice"
        assert not [one for one in self.families if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@contextlib.asynccontextmanager
async def opened(
    directory: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path = EMBEDDED, slots: int = 3
) -> AsyncIterator[House]:
    hello = Hello(str(checkpoint), "demo", "cpu", "float32", max_batch=slots)
    command = [sys.executable, "-m", "tests.worker.faulty_child", str(directory)]
    async with open_queue([Model(hello)], request_timeout_s=1e9, command=command) as queue:
        house = House(queue, directory, monkeypatch)
        yield house
    house.leave_in_order()


def texts(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.text for outcome in outcomes]


@pytest.mark.parametrize("phase", ["importing", "loading"])
async def test_a_worker_struck_before_it_is_ready(
    phase: str, quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other while the same requests wait; three deaths of its own would be a failed load."""
    async with opened(tmp_path, monkeypatch) as house:
        for faults in (FAULTS[:4], FAULTS[4:]):
            house.expect(*((phase, how) for how in faults))
            asked = house.ask(0, 1, 2)
            for how in faults:
                await house.met(how)
            assert texts(await asked) == quiet, faults
            await house.queue.unload()
        status = house.queue.status()
        assert (status.restarts, status.loads, status.unloads) == (5, 2, 2)


@pytest.mark.parametrize("phase", ["decoding", "generating", "writing"])
async def test_a_worker_struck_at_work(
    phase: str, quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["HANG", "cuda"] if phase == "generating" else []
    async with opened(tmp_path, monkeypatch) as house:
        for deaths, how in enumerate([*FAULTS, *more], 1):
            house.expect((phase, how))
            asked = house.ask(0, 1, 2)
            await house.met(how)
            assert texts(await asked) == quiet, how
            assert house.queue.status().restarts == deaths


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(3))
async def test_faults_at_random(seed: int, quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    async with opened(tmp_path, monkeypatch) as house:
        for turn in range(50):
            phase, how = chance.choice(PHASES), chance.choice(FAULTS)
            if phase in PHASES[:2]:
                await house.queue.unload()
            house.expect((phase, how))
            numbers = [chance.randrange(3) for _ in range(chance.randint(1, 8))]
            asked = house.ask(*numbers)
            await house.met(how)
            assert texts(await asked) == [quiet[number] for number in numbers], (turn, phase, how)


async def test_a_picture_that_crashes_the_worker_fails_alone(
    quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is held against the picture: the same bytes are answered when the codec is mended."""
    file = io.BytesIO()
    with Image.open(PICTURES[0]) as picture:
        picture.resize((61, 47)).save(file, "PNG")
    crashing, poison = tmp_path / "crashing", file.getvalue()
    crashing.write_text("61x47")
    async with opened(tmp_path, monkeypatch, slots=4) as house:
        asked = [house.queue.submit(one) for one in (request(), request(poison), request(number=1), request(number=2))]
        waiting = asyncio.gather(*asked, return_exceptions=True)
        while not waiting.done():
            house.ahead_s += 1  # no back-off is waited for
            await asyncio.sleep(0.1)
        first, crash, *others = waiting.result()
        assert isinstance(crash, WorkerCrash)
        assert "61" not in str(crash)
        assert texts([first, *others]) == quiet  # type: ignore[list-item]
        assert house.queue.status().restarts == 3
        crashing.unlink()
        assert (await house.queue.submit(request(poison))).text


async def test_a_batch_that_is_too_large_is_halved_and_that_is_remembered_by_the_next_worker(
    quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "room").write_text("1")
    async with opened(tmp_path, monkeypatch, slots=3) as house:
        assert texts(await house.ask(0, 1, 2)) == quiet
        await house.queue.unload()
        asked = house.ask(0, 1, 2)
        most = 0
        while not asked.done():
            most = max(most, house.queue.in_flight)
            await asyncio.sleep(0.001)
        assert texts(await asked) == quiet
        assert most == 1
        assert (house.queue.status().loads, house.queue.status().restarts) == (2, 0)


async def test_no_memory_for_the_model_is_told_and_the_next_request_tries_again(
    quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, monkeypatch) as house:
        house.expect(("loading", "oom"))
        failed = asyncio.gather(*(house.queue.submit(request(number=one)) for one in range(3)), return_exceptions=True)
        await house.met("oom")
        assert [type(error) for error in await failed] == [OutOfMemory] * 3
        assert texts(await house.ask(0, 1, 2)) == quiet
        assert house.queue.status().failure is None


async def test_a_checkpoint_is_mended_while_the_daemon_runs(
    quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(EMBEDDED, checkpoint)
    weights = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    async with opened(tmp_path, monkeypatch, checkpoint) as house:
        for _ in range(2):
            with pytest.raises(CheckpointError) as caught:
                await house.queue.submit(request())
            assert isinstance(caught.value, VisionError)
            assert caught.value.status == 503
            await until(lambda: house.queue.status().state == "failed")
        (checkpoint / "model.safetensors").write_bytes(weights)
        assert (await house.queue.submit(request())).text == quiet[0]
        assert (house.queue.status().state, house.queue.status().failure) == ("ready", None)
