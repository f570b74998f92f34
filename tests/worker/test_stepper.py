"""The worker's loop around an engine without a model: joining, cancelling, failing alone, running out of memory."""

from __future__ import annotations

import io
import queue
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from PIL import Image

from vision_server.errors import OutOfMemory, PromptTooLong
from vision_server.worker.protocol import Cancel, Done, Failed, Frame, Options, Progress, Ready, Run
from vision_server.worker.stepper import Inbox, Prepared, Stepper, prepare


@dataclass
class Answer:
    text: str
    token_ids: list[int]
    finish_reason: str = "stop"
    prompt_tokens: int = 4
    encode_s: float = 0.5
    generate_s: float = 0.25


@dataclass
class ToyEngine:
    """Takes `steps` steps for each request; has memory for `room` of them."""

    steps: int = 3
    room: int = 100
    running: dict[int, tuple[str, int]] = field(default_factory=dict)
    cancelled: list[int] = field(default_factory=list)
    most: int = 0
    tickets: Any = field(default_factory=lambda: count(1))

    @property
    def busy(self) -> bool:
        return bool(self.running)

    def submit(self, image: Image.Image, prompt_text: str, options: Any) -> int:
        if options.num_beams == 8:
            raise PromptTooLong("Too long.")
        if options.num_beams == 7:
            raise ZeroDivisionError("a bug, with a /path")
        ticket = next(self.tickets)
        self.running[ticket] = (prompt_text, self.steps)
        return int(ticket)

    def step(self) -> list[tuple[int, Answer]]:
        if len(self.running) > self.room:
            raise OutOfMemory("The device ran out of memory.")
        self.most = max(self.most, len(self.running))
        finished = []
        for ticket, (text, left) in list(self.running.items()):
            if left == 1:
                del self.running[ticket]
                finished.append((ticket, Answer(text, [1, 2])))
            else:
                self.running[ticket] = (text, left - 1)
        return finished

    def cancel(self, ticket: int) -> None:
        self.running.pop(ticket)
        self.cancelled.append(ticket)


def toy_prepare(run: Run) -> Prepared:
    return Prepared(run, Image.new("RGB", (4, 3)), (8, 6), f"sentence {run.id}", 0.125)


class Bench:
    def __init__(self, engine: ToyEngine, slots: int = 4) -> None:
        self.engine = engine
        self.inbox: Inbox = queue.SimpleQueue()
        self.said: list[Frame] = []
        ready = Ready("toy", "cpu", "float32", slots)
        self.stepper = Stepper(
            engine, self.inbox, ready, self.said.append, toy_prepare, lambda options: options, banned=("it",)
        )

    def run(self, run_id: int, beams: int = 3) -> Run:
        run = Run(run_id, f"r{run_id}", "<CAPTION>", options=Options(num_beams=beams))
        self.inbox.put(run)
        return run

    def prepared(self, run: Run) -> None:
        self.inbox.put(toy_prepare(run))

    def both(self, run_id: int, beams: int = 3) -> None:
        self.prepared(self.run(run_id, beams))

    def turns_until_idle(self) -> None:
        while not self.inbox.empty() or not self.stepper.idle:
            self.stepper.turn()

    @property
    def answers(self) -> list[Done | Failed]:
        return [frame for frame in self.said if isinstance(frame, Done | Failed)]

    @property
    def codes(self) -> dict[int, str]:
        return {frame.id: frame.code if isinstance(frame, Failed) else "" for frame in self.answers}


def test_a_request_joins_between_two_steps() -> None:
    bench = Bench(ToyEngine(steps=3))
    bench.both(1)
    bench.stepper.turn()
    bench.stepper.turn()
    bench.both(2)
    bench.stepper.turn()
    assert bench.answers == [Done(1, "sentence 1", 8, 6, "stop", 4, 2, 0.125, 0.5, 0.25, ("it",))]
    bench.turns_until_idle()
    assert list(bench.codes) == [1, 2]
    assert bench.engine.most == 2


def test_progress_comes_with_the_steps() -> None:
    bench = Bench(ToyEngine())
    bench.both(1)
    bench.stepper.turn()
    assert bench.said == [Progress("step", 1)]


@pytest.mark.parametrize("when", ["before decoding", "waiting for a slot", "running", "answered", "unknown"])
def test_a_cancel_is_answered_once_whenever_it_comes(when: str) -> None:
    bench = Bench(ToyEngine(steps=2), slots=1)
    bench.both(1)
    run = bench.run(2)
    if when == "before decoding":
        bench.inbox.put(Cancel(2))
        bench.stepper.turn()
    bench.prepared(run)
    if when == "waiting for a slot":
        bench.stepper.turn()
        bench.inbox.put(Cancel(2))
    bench.turns_until_idle()
    if when in ("running", "answered"):
        bench.both(3)
        bench.stepper.turn()
        bench.inbox.put(Cancel(3 if when == "running" else 1))
    if when == "unknown":
        bench.both(3)
        bench.inbox.put(Cancel(77))
    bench.turns_until_idle()
    cancelled = {run_id for run_id, code in bench.codes.items() if code == Failed.CANCELLED}
    assert cancelled == {"before decoding": {2}, "waiting for a slot": {2}, "running": {3}}.get(when, set())
    assert len(bench.answers) == len(bench.codes) == (3 if when in ("running", "answered", "unknown") else 2)
    assert not bench.engine.running


def test_a_request_that_fails_alone_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(ToyEngine())
    bench.both(1)
    bench.both(2, beams=8)
    bench.both(3, beams=7)
    broken = bench.run(4)
    bench.inbox.put(Failed(broken.id, "bad_image", "Broken."))
    bench.both(5)
    bench.turns_until_idle()
    assert bench.codes == {1: "", 2: "prompt_too_long", 3: "internal", 4: "bad_image", 5: ""}
    internal = next(frame for frame in bench.answers if frame.id == 3)
    assert isinstance(internal, Failed)
    assert "/path" not in internal.message
    assert "r3" in {getattr(record, "request_id", "") for record in caplog.records}


def test_out_of_memory_halves_and_remembers() -> None:
    engine = ToyEngine(room=2)
    bench = Bench(engine, slots=8)
    for run_id in range(1, 9):
        bench.both(run_id)
    bench.turns_until_idle()
    assert [frame.slots for frame in bench.said if isinstance(frame, Ready)] == [4, 2]
    assert bench.codes == dict.fromkeys(range(1, 9), "")
    assert engine.most == 2
    for run_id in range(9, 13):
        bench.both(run_id)
    bench.turns_until_idle()
    assert len([frame for frame in bench.said if isinstance(frame, Ready)]) == 2


def test_out_of_memory_alone_fails_that_request_only() -> None:
    engine = ToyEngine(room=0)
    bench = Bench(engine, slots=2)
    bench.both(1)
    bench.both(2)
    bench.turns_until_idle()
    assert bench.codes == {1: "out_of_memory", 2: "out_of_memory"}
    engine.room = 5
    bench.both(3)
    bench.turns_until_idle()
    assert bench.codes[3] == ""


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "PNG")
    return file.getvalue()


def test_prepare_decodes_and_writes_the_sentence() -> None:
    prepared = prepare(Run(1, "r", "<CAPTION>", image=_png()), 10_000)
    assert isinstance(prepared, Prepared)
    assert (prepared.sentence, prepared.image.size) == ("What does the image describe?", (40, 30))
    assert prepared.size == (40, 30)


def test_prepare_quantises_a_region_by_the_picture() -> None:
    run = Run(1, "r", "<REGION_TO_CATEGORY>", region=(0, 0, 20, 30), image=_png())
    prepared = prepare(run, 10_000)
    assert isinstance(prepared, Prepared)
    assert prepared.sentence == "What is the region <loc_0><loc_0><loc_500><loc_999>?"


def test_prepare_means_the_whole_picture_where_less_of_it_is_decoded() -> None:
    file = io.BytesIO()
    Image.new("RGB", (1600, 1200), "red").save(file, "JPEG")
    run = Run(1, "r", "<REGION_TO_CATEGORY>", region=(0, 0, 800, 1200), image=file.getvalue())
    prepared = prepare(run, 2_000_000, target=(64, 64))
    assert isinstance(prepared, Prepared)
    assert (prepared.image.size, prepared.size) == ((200, 150), (1600, 1200))
    assert prepared.sentence == "What is the region <loc_0><loc_0><loc_500><loc_999>?"


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (Run(1, "r", "<CAPTION>", image=b"nothing"), "bad_image"),
        (Run(1, "r", "<CAPTION>", image=_png()[:60]), "bad_image"),
        (Run(1, "r", "<REGION_TO_CATEGORY>", image=_png()), "bad_input"),
        (Run(1, "r", "<REGION_TO_CATEGORY>", region=(0, 0, 99, 99), image=_png()), "bad_input"),
    ],
)
def test_prepare_says_what_is_wrong(run: Run, code: str) -> None:
    result = prepare(run, 10_000)
    assert isinstance(result, Failed)
    assert result.code == code
