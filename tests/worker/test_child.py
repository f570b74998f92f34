"""The real worker with a small random model: captions, joining, cancelling, its end, and the daemon's end."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import queue as queues
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.tiny import Shape, picture, write_checkpoint
from vision_server.engine import Florence
from vision_server.errors import BadImage, BadInput, CheckpointError, LoadFailed, PromptTooLong
from vision_server.jobs import Model, Options, Outcome, Queue, Request, open_queue
from vision_server.worker import child
from vision_server.worker.equipping import auto_slots
from vision_server.worker.imports import Imports
from vision_server.worker.protocol import Cancel, Decoder, Done, Failed, Frame, Hello, Progress, Ready, Run, encode

WAIT_S = 60
LONG = Options(num_beams=2, max_new_tokens=600, length_penalty=5.0, early_stopping=False, no_repeat_ngram_size=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(directory, Shape("for-the-worker", text={"max_position_embeddings": 1024}))
    return directory


@pytest.fixture
async def queue(checkpoint: Path) -> AsyncIterator[Queue]:
    async with open_queue([Model(Hello(str(checkpoint), "toy", "cpu", threads=1, max_batch=4))]) as opened:
        yield opened


def png(seed: int = 0, size: tuple[int, int] = (80, 60)) -> bytes:
    file = io.BytesIO()
    picture(seed, size).save(file, "PNG")
    return file.getvalue()


def request(
    seed: int = 0, options: Options | None = None, task: str = "<CAPTION>", image: bytes | None = None
) -> Request:
    options = options or Options(max_new_tokens=20)
    return Request(f"r{seed}", "toy", png(seed) if image is None else image, task, options=options)


async def until(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_s, "waited in vain"
        await asyncio.sleep(0.002)


async def test_it_answers_what_the_engine_answers(queue: Queue, checkpoint: Path) -> None:
    outcomes = await asyncio.wait_for(asyncio.gather(*(queue.submit(request(seed)) for seed in range(8))), WAIT_S)
    florence = Florence.load(checkpoint, device="cpu")
    for seed, outcome in enumerate(outcomes):
        alone = florence.generate([(picture(seed), "What does the image describe?")], max_new_tokens=20)[0]
        assert outcome.text == alone.text
        assert (outcome.new_tokens, outcome.prompt_tokens) == (len(alone.token_ids), alone.prompt_tokens)
        assert (outcome.width, outcome.height, outcome.finish_reason) == (80, 60, alone.finish_reason)
        assert all(value >= 0 for value in outcome.timings_ms.values())
    status = queue.status()
    assert (status.device, status.dtype, status.model, status.loads) == ("cpu", "float32", "toy", 1)


async def test_what_is_wrong_with_a_request_fails_it_alone(queue: Queue) -> None:
    wrong = [
        queue.submit(request(1, image=b"no picture")),
        queue.submit(request(1, image=png()[:200])),
        queue.submit(request(1, task="<REGION_TO_CATEGORY>")),
        queue.submit(Request("r", "toy", png(), "<VQA>", text="why " * 3000)),
        queue.submit(request(1)),
    ]
    results = await asyncio.wait_for(asyncio.gather(*wrong, return_exceptions=True), WAIT_S)
    assert [type(result) for result in results] == [BadImage, BadImage, BadInput, PromptTooLong, Outcome]
    assert queue.status().restarts == 0


async def suspended_with_a_long_one(queue: Queue, pid: int) -> asyncio.Task[Outcome]:
    """A long caption is asked for, and the worker suspended before it has answered, however busy the machine is."""
    while True:
        asked = asyncio.create_task(queue.submit(request(3, LONG)))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(0.01)  # an answer that was on its way arrives
        if queue.in_flight == 1:
            return asked
        os.kill(pid, signal.SIGCONT)
        await asked


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_killed_while_it_generates_the_caption_still_arrives(queue: Queue, how: signal.Signals) -> None:
    quiet = await asyncio.wait_for(queue.submit(request(3, LONG)), WAIT_S)
    pid = queue.status().worker_pid
    assert pid is not None
    asked = await suspended_with_a_long_one(queue, pid)
    os.kill(pid, how)
    with contextlib.suppress(ProcessLookupError):  # one that is suspended can be killed, but not be ended otherwise
        os.kill(pid, signal.SIGCONT)
    outcome = await asyncio.wait_for(asked, WAIT_S)
    assert outcome.text == quiet.text
    status = queue.status()
    assert (status.restarts, status.loads) == (1, 2)
    assert status.worker_pid != pid


async def test_a_cancelled_caption_gives_its_row_back(queue: Queue) -> None:
    await queue.load("toy")
    pid = queue.status().worker_pid
    assert pid is not None
    asked = await suspended_with_a_long_one(queue, pid)
    asked.cancel()
    os.kill(pid, signal.SIGCONT)
    await until(lambda: queue.in_flight == 0)
    assert isinstance(await asyncio.wait_for(queue.submit(request(1)), WAIT_S), Outcome)
    assert queue.status().restarts == 0


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors"])
async def test_a_broken_checkpoint_is_told(tmp_path: Path, broken: str) -> None:
    write_checkpoint(tmp_path, Shape("to-be-broken"))
    (tmp_path / broken).write_bytes(b"{")
    async with open_queue([Model(Hello(str(tmp_path), "toy", "cpu"))]) as queue:
        with pytest.raises(CheckpointError) as caught:
            await asyncio.wait_for(queue.load("toy"), WAIT_S)
        assert str(tmp_path) not in str(caught.value)
        await until(lambda: queue.status().worker_pid is None)
        assert queue.status().state == "failed"


async def test_a_device_that_is_not_here_is_told(checkpoint: Path) -> None:
    async with open_queue([Model(Hello(str(checkpoint), "toy", "cuda:99"))]) as queue:
        with pytest.raises(LoadFailed, match="device"):
            await asyncio.wait_for(queue.load("toy"), WAIT_S)


class Raw:
    """The worker without a daemon around it: its pipes in our hands."""

    def __init__(self, checkpoint: Path, *, greet: bool = True) -> None:
        self._hello = Hello(str(checkpoint), "toy", "cpu", threads=1, max_batch=4)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vision_server.worker.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        self._decoder = Decoder()
        self._frames: list[Frame] = []
        self.seen: list[Frame] = []
        if greet:
            self.greet()

    def greet(self) -> None:
        self.say(self._hello)

    def say(self, frame: Frame) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(encode(frame))
        self.process.stdin.flush()

    def until(self, condition: Callable[[Frame], bool]) -> Frame:
        """The next frame that is meant; the test's own timeout ends a vain wait."""
        assert self.process.stdout is not None
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                self.seen.append(frame)
                if condition(frame):
                    return frame
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, "the worker is gone"
            self._frames += self._decoder.feed(data)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def raw(checkpoint: Path) -> Iterator[Raw]:
    worker = Raw(checkpoint)
    yield worker
    worker.close()


def is_a(kind: type[Frame]) -> Callable[[Frame], bool]:
    return lambda frame: isinstance(frame, kind)


def run(run_id: int, options: Options) -> Run:
    return Run(run_id, f"r{run_id}", "<CAPTION>", options=options, image=png(run_id))


def test_the_load_reports_bytes_and_then_ready(raw: Raw) -> None:
    ready = raw.until(is_a(Ready))
    assert ready == Ready("toy", "cpu", "float32", 4)
    progress = [frame for frame in raw.seen if isinstance(frame, Progress)]
    assert progress[0].phase == "import"
    assert progress[-1].phase == "weights"
    assert 0 < progress[-1].done <= progress[-1].total


def test_a_short_request_overtakes_a_long_one_and_a_cancel_ends_that(raw: Raw) -> None:
    raw.until(is_a(Ready))
    raw.say(run(1, LONG))
    raw.until(lambda frame: isinstance(frame, Progress) and frame.phase == "step")
    raw.say(run(2, Options(max_new_tokens=5)))
    first = raw.until(is_a(Done))
    assert isinstance(first, Done)
    assert first.id == 2
    raw.say(Cancel(1))
    assert raw.until(is_a(Failed)) == Failed(1, Failed.CANCELLED, Failed.CANCELLED)


@pytest.mark.parametrize("kept_bytes", [0, 1 << 20])
def test_features_of_pictures_are_kept_as_hello_says(checkpoint: Path, kept_bytes: int) -> None:
    """In this process, so that the engine can be seen: two pictures, and then what a lack of memory has it do."""
    inbox: queues.SimpleQueue[Any] = queues.SimpleQueue()
    said: list[Frame] = []
    hello = Hello(str(checkpoint), "toy", "cpu", threads=1, max_batch=1, feature_cache_bytes=kept_bytes)
    stepper = child._load(hello, inbox, said.append, Imports())
    for run_id in (1, 2):
        asked = run(run_id, Options(max_new_tokens=5))
        for item in (asked, stepper.prepare(asked)):
            inbox.put(item)
        while not any(isinstance(frame, Done) and frame.id == run_id for frame in said):
            stepper.turn()
    engine = stepper._engine
    assert isinstance(engine, Florence)
    row_bytes = engine.image_tokens * 32 * 4  # the tiny model's width, in float32
    assert engine.feature_bytes == (2 * row_bytes if kept_bytes else 0)
    stepper._release()
    assert engine.feature_bytes == 0


@pytest.mark.parametrize("when", [Progress, Ready, Run])
def test_the_end_of_its_input_ends_it_at_once(raw: Raw, when: type[Frame]) -> None:
    raw.until(is_a(Progress if when is Progress else Ready))
    if when is Run:
        raw.say(run(1, LONG))
        raw.until(lambda frame: isinstance(frame, Progress) and frame.phase == "step")
    assert raw.process.stdin is not None
    raw.process.stdin.close()
    assert raw.process.wait(WAIT_S) == 0


def test_the_end_of_its_input_ends_one_that_has_no_model_yet(checkpoint: Path) -> None:
    worker = Raw(checkpoint, greet=False)
    try:
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        assert worker.process.wait(WAIT_S) == 0
    finally:
        worker.close()


def test_what_is_printed_goes_to_the_log_and_never_into_the_pipe() -> None:
    script = (
        "import os, sys\n"
        "from vision_server.worker import child\n"
        "from vision_server.worker.protocol import Progress\n"
        "pipe = child.Pipe()\n"
        "print('printed', flush=True)\n"
        "os.write(1, b'native\\n')\n"
        "assert sys.stdin.read() == ''\n"
        "pipe.say(Progress(pipe.read().decode()))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], input=b"ours", capture_output=True, timeout=WAIT_S, check=True
    )
    assert list(Decoder().feed(ended.stdout)) == [Progress("ours")]
    assert ended.stderr.split() == [b"printed", b"native"]


def test_the_worker_does_not_import_torch_before_main() -> None:
    script = "import sys, vision_server.worker.child; sys.exit('torch' in sys.modules)"
    assert psutil.Popen([sys.executable, "-c", script]).wait(WAIT_S) == 0


def test_the_worker_imports_only_what_it_runs(checkpoint: Path) -> None:
    """torch's compiler and what it needs take as long to import as torch itself; the hub is for downloads only."""
    script = (
        "import sys\n"
        "from vision_server.worker import child\n"
        "from vision_server.worker.protocol import Hello\n"
        f"hello = Hello({str(checkpoint)!r}, 'toy', 'cpu', threads=1, max_batch=1)\n"
        "stepper = child._load(hello, None, lambda frame: None, child.Imports())\n"
        "from PIL import Image\n"
        "assert stepper._engine.generate([(Image.new('RGB', (8, 8)), 'a')], max_new_tokens=5)\n"
        "print(*sorted({name for name in sys.modules if name.count('.') < 2}))\n"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True)
    imported = set(ended.stdout.split())
    assert {"torch", "PIL.PngImagePlugin", "vision_server.engine"} <= imported
    assert not imported & {"torch._dynamo", "torch._inductor", "sympy", "huggingface_hub", "aiohttp", "yaml"}
    assert not imported & {"transformers", "psutil", "vision_server.hub", "vision_server.api", "vision_server.settings"}


def test_imports_begin_before_the_model_is_known(checkpoint: Path) -> None:
    """A worker that hears nothing: it imports the engine, says nothing, and is then as good as any."""
    worker = Raw(checkpoint, greet=False)
    try:
        process = psutil.Process(worker.process.pid)
        give_up_s = time.monotonic() + WAIT_S
        while not any("libtorch" in mapped.path for mapped in process.memory_maps()):
            assert time.monotonic() < give_up_s, "torch is not being imported"
            time.sleep(0.01)
        worker.greet()
        worker.until(is_a(Ready))
        assert worker.seen[0] == Progress("import")
    finally:
        worker.close()


def test_torch_uses_as_many_threads_as_it_is_told_or_as_there_are_cores(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(child, "usable_cores", lambda: 7)
    for threads in (None, 3):
        child._load(Hello(str(checkpoint), "toy", "cpu", threads=threads), queues.SimpleQueue(), print, Imports())
    assert used == [7, 3]


@pytest.mark.parametrize(
    ("model_bytes", "free_bytes", "on_gpu", "slots"),
    [
        (460 << 20, 7 << 30, True, 19),
        (1540 << 20, 22 << 30, True, 20),
        (1540 << 20, 1 << 30, True, 1),
        (460 << 20, 140 << 30, True, 64),
        (0, None, False, 8),
        (0, 24 << 30, False, 8),
        (0, 1 << 30, False, 5),
        (0, 100 << 20, False, 1),
        (0, -1, False, 1),
    ],
)
def test_slots_by_free_memory(model_bytes: int, free_bytes: int | None, on_gpu: bool, slots: int) -> None:
    assert auto_slots(model_bytes, free_bytes, on_gpu=on_gpu) == slots
