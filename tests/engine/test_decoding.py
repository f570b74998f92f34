"""The running decode: however it is laid out, checked and filled, the answers are the same."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.engine.conftest import Pair
from tests.engine.running import HOST, OPTIONS, PROMPTS, Said, cross, decoding, play, rules, run_out, with_policy
from tests.engine.tracing import CountingRecorder
from tests.tiny import picture
from vision_server.engine import Florence, Generation, Options
from vision_server.engine.cache import CacheStep, DecoderCache
from vision_server.engine.device import choose_linear
from vision_server.engine.graphs import StepGraphs
from vision_server.engine.policy import CPU, CUDA, OTHERS, Extent, Policy, policy_for
from vision_server.errors import OutOfMemory


@pytest.mark.parametrize(
    "policy",
    [
        replace(CPU, apart=False),
        replace(CPU, rounded=True, apart=False),
        replace(CPU, check_every=2, admit_at_once=3),
        replace(CPU, check_every=3, kept_bytes=1 << 40),
        replace(CUDA, check_every=7),
        CUDA,
        OTHERS,
    ],
    ids=str,
)
def test_every_policy_answers_the_same(ending: Florence, played: Said, policy: Policy) -> None:
    said = play(with_policy(ending, policy))
    both = said.keys() & played.keys()  # a cancel may come too late for one that was done already
    assert len(both) >= 16
    assert {number: said[number] for number in both} == {number: played[number] for number in both}


ASKED = [(picture(900 + n), PROMPTS[n % len(PROMPTS)], OPTIONS[n % len(OPTIONS)]) for n in range(14)]


def heard(
    florence: Florence, asked: list[tuple[Image.Image, str, Options]], monkeypatch: pytest.MonkeyPatch
) -> list[list[Tensor]]:
    """Submit one every third step; the logits (W, V) of every step of each, W its own beams."""
    step = florence.network.text.step
    logits: dict[int, list[Tensor]] = {}
    waiting = list(asked)

    def listening(ids_RW: Tensor, cache: CacheStep) -> Tensor:
        said = step(ids_RW, cache)
        for slot, request in enumerate(florence._running):
            logits.setdefault(request.ticket, []).append(said[slot, : request.rules.num_beams].clone())
        return said

    with monkeypatch.context() as patched:
        patched.setattr(florence.network.text, "step", listening)
        for count in itertools.count():
            if waiting and count % 3 == 0:
                florence.submit(*waiting.pop(0))
            florence.step()
            if not (waiting or florence.busy):
                break
    return [logits[ticket] for ticket in sorted(logits)]


@pytest.mark.skipif(
    choose_linear("auto", HOST, torch.float32) is None, reason="the plain layers add up by the number of rows"
)
def test_company_changes_no_bit(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU in float32 a request's logits are the same to the last bit whoever shares its steps."""
    alone = [heard(pair.ours, [asked], monkeypatch)[0] for asked in ASKED]
    together = heard(pair.ours, ASKED, monkeypatch)
    assert sum(map(len, together)) > 300
    for number, (its, theirs) in enumerate(zip(alone, together, strict=True)):
        assert len(its) == len(theirs), number
        assert all(torch.equal(one, other) for one, other in zip(its, theirs, strict=True)), number


@torch.inference_mode()
def test_one_that_is_no_number_spoils_no_other(ending: Florence) -> None:
    """Neither its neighbours nor those that get its slot, nor itself moved into another one's."""
    limited = rules(limit=20, no_repeat_ngram_size=0)
    full: list[tuple[Tensor, list[int]]] = []
    short: list[tuple[Tensor, list[int]]] = []
    for seed in range(50):
        few = len(short) < 1
        one = cross(ending, 1, seed)[:, :, :, :, : 12 if few else 20]
        running = decoding(ending, CPU)
        running.add(one, [one.shape[4]], [limited])
        ids = run_out(running)
        if len(ids) > 10:
            (short if few else full).append((one, ids))
        if len(full) == 3:
            break
    asked, expected = zip(*full, *short, strict=True)
    broken = torch.full_like(asked[0], math.nan)
    for policy in (CPU, replace(CUDA, check_every=1)):
        running = decoding(ending, policy)
        running.add(torch.cat([asked[0], broken], dim=2), [20, 20], [limited, limited])
        spoilt = [run_out(running)]  # from the last slot, which the next one gets
        running.add(asked[1], [20], [limited])
        running.step()
        running.add(torch.cat([broken, asked[2]], dim=2), [20, 20], [limited, limited])
        spoilt += [run_out(running)]  # the last one moves into its slot
        running.add(broken, [20], [limited])
        spoilt += [run_out(running)]
        assert all(len(ids) < 10 for ids in spoilt), "the broken ones end at once"
        running.add(asked[3], [12], [limited])  # shorter than the broken one
        answers = [run_out(running) for _ in asked]
        assert sorted(answers) == sorted(expected)


@torch.inference_mode()
def test_done_is_done(ending: Florence) -> None:
    """A request's answer does not change however long nobody looks."""
    wanted = rules(num_beams=4, limit=100, no_repeat_ngram_size=0)
    states = cross(ending, 16, 0)
    states[:, :, 5] = math.nan  # ends without an answer, and has no score to keep a better one away with
    running, patient = decoding(ending, CPU), decoding(ending, replace(CPU, check_every=1000))
    for each in (running, patient):
        each.add(states, [20] * 16, [wanted] * 16)
    early: dict[int, list[int]] = {}
    for _ in range(60):
        early |= {slot: running.result(slot) for slot in running.step() if slot not in early}
        assert patient.step() == []
    assert 5 in early
    assert len(early) > 4, "some are done long before the limit"
    assert all(patient.result(slot) == ids for slot, ids in early.items())


@torch.inference_mode()
def test_a_limit_is_known_without_looking(ending: Florence) -> None:
    running = decoding(ending, replace(CPU, check_every=1000))
    running.add(cross(ending, 2, 0), [20, 20], [rules(limit=7), rules(limit=9)])
    assert [running.step() for _ in range(6)] == [[]] * 6
    assert 0 in running.step()


@torch.inference_mode()
def test_slots_not_in_use_stay_still(ending: Florence) -> None:
    """Three requests step along with a fourth slot for longer than its positions would last."""
    running = decoding(ending, replace(CUDA, check_every=1))
    running.add(cross(ending, 3, 0), [20] * 3, [rules(limit=limit) for limit in (7, 9, 10)])
    for _ in range(90):
        for slot in reversed(running.step()):
            running.remove(slot)
            running.add(cross(ending, 1, 0), [20], [rules(limit=8)])


def test_running_ones_go_on_between_pictures(ending: Florence) -> None:
    """As many are let in at a step as the policy says, in their order, and the rest waits."""
    for policy, running in ((CPU, [1, 2, 3, 4, 5]), (replace(CPU, admit_at_once=2), [2, 4, 5, 5, 5])):
        florence = with_policy(ending, policy)
        tickets = [florence.submit(picture(n), PROMPTS[0], Options(max_new_tokens=40)) for n in range(5)]
        for step, count in enumerate(running):
            florence.step()
            tokens = florence.new_tokens()
            assert sorted(tokens) == tickets[:count]
            assert tokens[tickets[0]] == step + 1
        while florence.busy:
            florence.step()


def test_running_out_of_memory_changes_nothing(ending: Florence, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where buffers cannot grow, for a newcomer or for a longer answer, what runs and what waits can still be done."""
    florence = with_policy(ending, CPU)
    options = Options(num_beams=2, max_new_tokens=80, no_repeat_ngram_size=0)
    alone = [florence.generate([(picture(n), PROMPTS[0])], num_beams=2, max_new_tokens=80)[0] for n in range(2)]
    options = replace(options, no_repeat_ngram_size=3)
    grown, failing = DecoderCache.grown, [True]

    def sometimes(cache: DecoderCache, size: Extent) -> DecoderCache:
        failing[0] = not failing[0]
        if not failing[0]:
            raise torch.OutOfMemoryError("no room")
        return grown(cache, size)

    monkeypatch.setattr(DecoderCache, "grown", sometimes)
    tickets = [florence.submit(picture(n), PROMPTS[0], options) for n in range(2)]
    said: dict[int, Generation] = {}
    failures = 0
    while florence.busy:
        try:
            said.update(florence.step())
        except OutOfMemory:
            failures += 1
    assert failures >= 2
    assert [said[ticket].token_ids for ticket in tickets] == [answer.token_ids for answer in alone]


@torch.inference_mode()
def test_graphs_outlive_a_request_where_buffers_do(ending: Florence) -> None:
    counts = []
    for kept_bytes, beams in ((1 << 40, (3, 3)), (0, (3, 3)), (1 << 40, (3, 2))):
        recorder = CountingRecorder()
        running = decoding(ending, replace(CUDA, kept_bytes=kept_bytes), StepGraphs(recorder))
        for number in beams:
            running.add(cross(ending, 1, 0), [20], [rules(num_beams=number, limit=5)])
            run_out(running)
        counts.append((recorder.warmed, recorder.captured))
    assert counts == [(1, 1), (2, 2), (2, 2)], "buffers of another width are of no use"


@torch.inference_mode()
def test_what_is_released(ending: Florence) -> None:
    recorder = CountingRecorder()
    running = decoding(ending, CUDA, StepGraphs(recorder))
    running.add(cross(ending, 2, 0), [20, 20], [rules(), rules(limit=4)])
    running.step()
    running.release()
    assert recorder.renewed == 1
    run_out(running)
    held = running._cache.nbytes
    assert held > 0, "what runs keeps its buffers"
    running.remove(0)
    assert running._cache.nbytes == 0, "and gives them up afterwards"


def test_rounding() -> None:
    assert Extent(1, 3, 1, 577).rounded(1024) == Extent(1, 3, 64, 640)
    assert Extent(5, 1, 65, 640).rounded(1024) == Extent(8, 1, 128, 640)
    assert Extent(64, 1, 1024, 641).rounded(1024) == Extent(64, 1, 1024, 704)
    assert Extent(65, 1, 70, 1).rounded(100) == Extent(96, 1, 100, 64)
    for rows in range(1, 200):
        extent = Extent(rows, 3, rows, rows)
        assert extent.rounded(1024).covers(extent)


def test_the_policies_of_devices() -> None:
    assert policy_for(torch.device("cpu"), torch.float32) == CPU
    assert policy_for(torch.device("cpu"), torch.bfloat16) == replace(CPU, apart=False)
    assert policy_for(torch.device("cuda", 1), torch.float16) == CUDA
    assert policy_for(torch.device("mps"), torch.float16) == OTHERS


def test_a_rounded_extent_is_nobodys_own() -> None:
    with pytest.raises(ValueError, match="rounded"):
        replace(CPU, rounded=True)
