"""Which steps are captured, replayed and dropped; and, where there is a GPU, that replaying changes no answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.engine.conftest import Pair
from tests.tiny import picture
from vision_server.engine import Florence, Generation, Options
from vision_server.engine import florence as florence_module
from vision_server.engine.graphs import Step, StepGraphs, graphs_for
from vision_server.engine.policy import CUDA


class Device:
    """A recorder that notes what happens, in order; its graphs say `replay` and the key of the step."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.broken: Exception | None = None

    def step(self, name: str) -> Step:
        return lambda: self.seen.append(name)

    def warm(self, step: Step) -> None:
        self.seen.append("warm")
        step()

    def capture(self, step: Step) -> Step:
        if self.broken:
            raise self.broken
        length = len(self.seen)
        step()
        (name,) = self.seen[length:]
        self.seen[length:] = [f"capture {name}"]  # noted, not done
        return self.step(f"replay {name}")

    def renew(self) -> None:
        self.seen.append("renew")

    def run(self, graphs: StepGraphs, names: str) -> list[str]:
        """What happens when steps with these keys are run."""
        before = len(self.seen)
        for name in names:
            graphs.run(name, self.step(name))
        return self.seen[before:]


def test_the_first_step_runs_the_second_is_captured_all_others_are_replayed() -> None:
    device = Device()
    graphs = StepGraphs(device)
    assert device.run(graphs, "aabaab") == [
        *("warm", "a", "capture a", "replay a", "warm", "b"),
        *("replay a", "replay a", "capture b", "replay b"),
    ]


def test_without_a_recorder_every_step_runs() -> None:
    device = Device()
    graphs = StepGraphs(None)
    assert device.run(graphs, "aaa") == ["a", "a", "a"]
    graphs.clear()
    assert device.run(graphs, "a") == ["a"]


def test_the_least_recently_used_is_dropped() -> None:
    device = Device()
    graphs = StepGraphs(device, most=2)
    device.run(graphs, "aabb")
    assert device.run(graphs, "a") == ["replay a"]
    device.run(graphs, "c")  # in the place of b
    assert device.run(graphs, "a") == ["replay a"]
    assert device.run(graphs, "b") == ["warm", "b"]


def test_cleared_graphs_are_captured_anew_in_fresh_memory() -> None:
    device = Device()
    graphs = StepGraphs(device)
    device.run(graphs, "aa")
    graphs.clear()
    graphs.clear()
    assert device.seen[-1] == "renew"
    assert device.seen.count("renew") == 1, "there was nothing to drop the second time"
    assert device.run(graphs, "aa") == ["warm", "a", "capture a", "replay a"]


@pytest.mark.parametrize("error", [RuntimeError("not permitted"), torch.OutOfMemoryError("no room")])
def test_a_capture_that_fails_is_the_last_one(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """One warning; the step it was for and all others run as they are."""
    device = Device()
    graphs = StepGraphs(device)
    device.run(graphs, "aab")
    device.broken = error
    with caplog.at_level(logging.WARNING):
        assert device.run(graphs, "bbaa") == ["renew", "b", "b", "a", "a"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(error) in caplog.text


def test_a_step_that_fails_is_not_taken_for_warm() -> None:
    device = Device()
    graphs = StepGraphs(device)

    def failing() -> None:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        graphs.run("a", failing)
    assert device.run(graphs, "aa") == ["warm", "warm", "a", "capture a", "replay a"][1:]


def test_only_cuda_captures() -> None:
    device = Device()
    assert device.run(graphs_for(torch.device("cpu")), "aaa") == ["a", "a", "a"]


@pytest.fixture(params=["float32", "float16"])
def on_gpu(request: pytest.FixtureRequest, one_pair: Pair) -> Iterator[Florence]:
    florence = Florence.load(one_pair.directory, device="cuda", dtype=request.param)
    yield florence
    torch.cuda.set_sync_debug_mode("default")


def answers(florence: Florence) -> list[list[int]]:
    """Of requests that come while others run, with all kinds of options, so that buffers grow and slots move."""
    options = [
        Options(num_beams=1 + n % 4, max_new_tokens=10 + 11 * (n % 9), no_repeat_ngram_size=n % 4) for n in range(24)
    ]
    tickets: list[int] = []
    said: dict[int, Generation] = {}
    while len(tickets) < len(options) or florence.busy:
        if len(tickets) < len(options):
            number = len(tickets)
            tickets.append(florence.submit(picture(number), "What does the image describe?", options[number]))
        for _ in range(3):
            said.update(florence.step())
    return [said[ticket].token_ids for ticket in tickets]


@pytest.mark.gpu
def test_replayed_answers_are_those_of_plain_steps(on_gpu: Florence, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = answers(on_gpu), answers(on_gpu)
    monkeypatch.setattr(florence_module, "graphs_for", lambda device: StepGraphs(None))
    ours = on_gpu
    plain = Florence(ours.network, ours.config, ours.tokenizer, torch.device("cuda"), torch_dtype(ours))
    assert first == again == answers(plain)


@pytest.mark.gpu
def test_a_step_does_not_wait_for_the_device(on_gpu: Florence) -> None:
    """Neither the first, which runs as it is, nor one that is replayed. Capturing itself may wait."""
    ours = on_gpu
    never = replace(CUDA, check_every=1000)
    patient = Florence(ours.network, ours.config, ours.tokenizer, torch.device("cuda"), torch_dtype(ours), policy=never)
    for number in range(3):
        patient.submit(picture(number), "What does the image describe?", Options(max_new_tokens=60))
    patient.step()
    patient.step()
    torch.cuda.set_sync_debug_mode("error")
    for _ in range(20):
        assert patient.step() == []


@pytest.mark.gpu
def test_steps_are_captured(on_gpu: Florence, caplog: pytest.LogCaptureFixture) -> None:
    """And not quietly run as they are."""
    with caplog.at_level(logging.WARNING):
        answers(on_gpu)
    assert caplog.records == []


def torch_dtype(florence: Florence) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, florence.dtype)
    return dtype
