"""A decoder step can be captured: it is the same operations on the same memory, and the host takes no part in it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch.fx import GraphModule

from tests.engine.running import Said, cross, decoding, play, rules, with_policy
from tests.engine.tracing import (
    CountingRecorder,
    OnOneDevice,
    TracingRecorder,
    constants,
    of_the_host,
    operations,
    trace,
)
from vision_server.engine import Florence
from vision_server.engine import florence as florence_module
from vision_server.engine.decoding import Decoding
from vision_server.engine.graphs import Step, StepGraphs
from vision_server.engine.network import Network
from vision_server.engine.policy import CUDA

HOST = torch.device("cpu")


def test_replayed_steps_answer_the_same(ending: Florence, played: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded operations, replayed without the Python between them, through growth, joins and leaves."""
    recorder = TracingRecorder()
    monkeypatch.setattr(florence_module, "graphs_for", lambda device: StepGraphs(recorder))
    assert play(with_policy(ending, replace(CUDA, check_every=1, admit_at_once=1))) == played
    assert recorder.captured > 4
    assert recorder.replayed > 2 * recorder.captured
    assert recorder.renewed > 1, "buffers have moved"


@torch.inference_mode()
def test_a_step_is_the_same_operations_on_the_same_memory(ending: Florence) -> None:
    """Nothing of the host goes into it: no value read, no size that depends on values, no tensor made from a list."""
    traces: list[GraphModule] = []
    counted = itertools.count(1)

    class Keeping(CountingRecorder):
        def warm(self, step: Step) -> None:
            count = next(counted)
            if count in (1, 12):
                traces.append(trace(step))
            else:
                step()

    running = decoding(ending, CUDA, StepGraphs(Keeping(), most=0))  # keeps none, so that every step is a first one
    running.add(cross(ending, 3, 0), [20, 18, 20], [rules(), rules(num_beams=2, no_repeat_ngram_size=0), rules()])
    for _ in range(12):
        running.step()
    first, last = traces
    assert operations(first) == operations(last)
    assert [t.data_ptr() for t in constants(first)] == [t.data_ptr() for t in constants(last)]
    for node in first.graph.nodes:
        assert not of_the_host(node.target), node


@torch.inference_mode()
def test_a_step_stays_on_its_device(ending: Florence) -> None:
    """On tensors without values, so that asking for one fails, too."""
    config, device = ending.config, torch.device("meta")
    with device:
        network = Network(config).half()
        states = torch.zeros(3, 20, config.text.d_model, dtype=torch.float16)
    running = Decoding(network.text, config.text, device, torch.float16, CUDA, StepGraphs(None))
    several = [rules(), rules(num_beams=1, no_repeat_ngram_size=0, forced_bos=None), rules(early_stopping=False)]
    running.add(network.cross_keys_values(states), [20, 18, 20], several)
    for _ in range(CUDA.check_every - 1):
        with OnOneDevice(device) as watched:
            assert running.step() == []
        assert watched.seen > 100


@torch.inference_mode()
def test_looking_and_encoding_stay_on_their_device(ending: Florence) -> None:
    """Nothing of the vision tower, the projector or the encoder waits for the host, which could be made ready for the
    next picture meanwhile."""
    config, device = ending.config, torch.device("meta")
    with device:
        network = Network(config).half().to(device)
        pixels = torch.zeros(2, 3, config.preprocess.height, config.preprocess.width, dtype=torch.float16)
        ids, mask = torch.zeros(2, 9, dtype=torch.long), torch.ones(2, 9, dtype=torch.bool)
    with OnOneDevice(device) as watched:
        features = network.look(pixels)
        cross_L2RHSd = network.cross_keys_values(network.text.encode(features, ids, mask))
    assert cross_L2RHSd.shape[4] == features.shape[1] + 9
    assert {features.dtype, cross_L2RHSd.dtype} == {torch.float16}
    assert watched.seen > 100


def test_the_watches_see_what_they_must() -> None:
    with pytest.raises(AssertionError, match="waits for the host"), OnOneDevice(HOST):
        torch.ones(2).sum().item()
    with pytest.raises(AssertionError, match="waits for the host"), OnOneDevice(HOST):
        torch.arange(3)[torch.ones(3, dtype=torch.bool)]
    with pytest.raises(AssertionError, match="on cpu"), OnOneDevice(torch.device("meta")):
        torch.ones(2, device="meta") + torch.ones(1).to("meta")
    counted = iter(range(9))
    made = trace(lambda: torch.zeros(2).copy_(torch.tensor([next(counted), 1])))  # type: ignore[arg-type]
    assert any(of_the_host(node.target) for node in made.graph.nodes)
