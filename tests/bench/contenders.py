"""The two that the benchmarks set against each other, timed in one way: our engine, and transformers' native Florence-2
`generate` as the ancestor server runs it. Not a benchmark.

A run begins with decoded pictures and sentences and ends with token ids in Python, so preparation, the end of the
device's work and the search all count on both sides. Both prepare pictures and prompts by the same code.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from PIL import Image
from torch import Tensor
from transformers import Florence2ForConditionalGeneration, GenerationConfig, LogitsProcessor, LogitsProcessorList

from tests.bench.fidelity import SMALL_GAP, reference_gap
from tests.tiny import EOS, Search, oracle_inputs
from vision_server.engine import Florence, Options

BEAMS = 3

T = TypeVar("T")

Requests = Sequence[tuple[Image.Image, str]]


@dataclass
class Run:
    """What answering some requests took. `steps_s` is the part after every one of them had its first token, in which
    `step_tokens` more were made."""

    seconds: float = 0.0
    steps_s: float = 0.0
    step_tokens: int = 0
    ids: list[list[int]] = field(default_factory=list)

    @property
    def ms_per_token(self) -> float:
        """Of the decoder alone, a token of a request (the best of its beams)."""
        return 1000 * self.steps_s / self.step_tokens


class Ours:
    """All requests at once, as the worker hands them to the engine. Keeps no features of pictures unless told to."""

    def __init__(self, directory: Path, device: str, dtype: str, feature_cache_bytes: int = 0) -> None:
        self.florence = Florence.load(directory, device, dtype, feature_cache_bytes=feature_cache_bytes)

    def run(self, requests: Requests, tokens: int) -> Run:
        florence, options = self.florence, Options(num_beams=BEAMS, max_new_tokens=tokens)
        began_s = time.perf_counter()
        tickets = [florence.submit(image, sentence, options) for image, sentence in requests]
        answers = dict(florence.step())
        while len(florence.new_tokens()) + len(answers) < len(tickets):  # some are still to be let in
            answers.update(florence.step())
        started_s, had = time.perf_counter(), {**dict.fromkeys(answers, tokens), **florence.new_tokens()}
        while florence.busy:
            answers.update(florence.step())
        ended_s = time.perf_counter()
        ids = [answers[ticket].token_ids for ticket in tickets]
        _check_counts(ids, tokens)
        return Run(ended_s - began_s, ended_s - started_s, tokens * len(tickets) - sum(had.values()), ids)


class Reference:
    """One request after the other. SDPA, its cache of keys and values, inference mode; threads are the process's."""

    def __init__(self, directory: Path, ours: Ours, dtype: torch.dtype) -> None:
        """`ours` lends what prepares pictures and prompts, and names the device."""
        self._prepare = ours.florence
        model = Florence2ForConditionalGeneration.from_pretrained(directory, dtype=dtype, attn_implementation="sdpa")
        self.model = model.eval().to(self._prepare.device)
        self._dtype = dtype

    def run(self, requests: Requests, tokens: int) -> Run:
        run = Run()
        for request in requests:
            clock = _Clock()
            began_s = time.perf_counter()
            run.ids.append(self._generate(request, tokens, clock))
            run.seconds += time.perf_counter() - began_s
            run.steps_s += clock.times_s[-1] - clock.times_s[0]
            run.step_tokens += len(clock.times_s) - 1
        _check_counts(run.ids, tokens)
        return run

    def _generate(self, request: tuple[Image.Image, str], tokens: int, clock: _Clock) -> list[int]:
        config = generation_config(tokens)
        self.model.generation_config = config
        inputs: dict[str, Tensor] = {k: v.to(self.model.device) for k, v in self._inputs(request).items()}
        with torch.inference_mode():
            out = self.model.generate(
                generation_config=config, logits_processor=LogitsProcessorList([clock]), **cast(Any, inputs)
            )
        ids: list[int] = out[0, 1:].tolist()
        return ids

    def _inputs(self, request: tuple[Image.Image, str]) -> dict[str, Tensor]:
        inputs = oracle_inputs(self._prepare, [request])
        return {**inputs, "pixel_values": inputs["pixel_values"].to(self._dtype)}


def generation_config(tokens: int) -> GenerationConfig:
    """How the reference generates: BEAMS beams, its cache, answers of exactly so many tokens."""
    return GenerationConfig(
        do_sample=False,
        num_beams=BEAMS,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        no_repeat_ngram_size=3,
        early_stopping=True,
        use_cache=True,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=EOS,
        decoder_start_token_id=EOS,
        forced_bos_token_id=0,
        forced_eos_token_id=EOS,
    )


class _Clock(LogitsProcessor):  # type: ignore[misc]
    """Notes the time at each step, once the decoder has run; changes nothing."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.times_s.append(time.perf_counter())
        return scores


def _check_counts(ids: list[list[int]], tokens: int) -> None:
    counts = [len(row) for row in ids]
    if counts != [tokens] * len(ids):
        raise AssertionError(f"{tokens} tokens were asked for, but the answers have {counts}")


def check_identical(
    ours: Ours, reference: Reference, requests: Requests, tokens: int, said: Sequence[T], expected: Sequence[T]
) -> None:
    """Raises AssertionError for an answer of `said` that is not the reference's (token ids or texts, in float32 on both
    sides), unless the reference itself had two scores to choose between that lay less than SMALL_GAP apart."""
    for number, (answer, true) in enumerate(zip(said, expected, strict=True)):
        if answer != true:
            gap = reference_gap(reference.model, ours.florence, requests[number], Search(BEAMS, tokens))
            if gap >= SMALL_GAP:
                raise AssertionError(f"answer {number} differs from the reference's (gap {gap:.1e}): {answer}, {true}")
