"""Requests in a running decode, for tests of how it runs. Not a test."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tests.tiny import picture
from vision_server.engine import Florence, Options
from vision_server.engine.beam import Rules
from vision_server.engine.decoding import Decoding
from vision_server.engine.graphs import StepGraphs
from vision_server.engine.policy import Policy

HOST = torch.device("cpu")
PROMPTS = ("What does the image describe?", "<GENERATE_TAGS>", "Locate the objects with category name in the image.")
OPTIONS = (
    Options(max_new_tokens=30),
    Options(num_beams=1, max_new_tokens=80, no_repeat_ngram_size=0),
    Options(num_beams=5, max_new_tokens=12, no_repeat_ngram_size=2),
    Options(max_new_tokens=70, early_stopping=False, length_penalty=2.0, no_repeat_ngram_size=2),
    Options(num_beams=2, max_new_tokens=1),
    Options(max_new_tokens=90, length_penalty=-0.5, early_stopping=False),
    Options(num_beams=4, max_new_tokens=2, no_repeat_ngram_size=70),
)
Said = dict[int, tuple[list[int], str]]


def with_policy(florence: Florence, policy: Policy) -> Florence:
    return Florence(florence.network, florence.config, florence.tokenizer, HOST, torch.float32, policy=policy)


def play(florence: Florence, count: int = 20) -> Said:
    """Requests of all kinds that come in threes while others run; every fifth is cancelled halfway."""
    said: Said = {}
    tickets: list[int] = []
    steps = 0
    while len(tickets) < count or florence.busy:
        if steps % 4 == 0:
            for number in range(len(tickets), min(len(tickets) + 3, count)):
                options = OPTIONS[number % len(OPTIONS)]
                tickets.append(florence.submit(picture(800 + number), PROMPTS[number % len(PROMPTS)], options))
        if steps >= 16 and steps % 8 == 0 and steps // 8 * 5 - 10 < count:
            florence.cancel(tickets[steps // 8 * 5 - 10])
        said.update({ticket: (a.token_ids, a.finish_reason) for ticket, a in florence.step()})
        steps += 1
    return {tickets.index(ticket): answer for ticket, answer in said.items()}


def rules(**changes: object) -> Rules:
    return replace(Rules(3, 60, 3, 1.0, True, 0, 2), **changes)  # type: ignore[arg-type]


def decoding(florence: Florence, policy: Policy, graphs: StepGraphs | None = None) -> Decoding:
    text = florence.network.text
    return Decoding(text, florence.config.text, HOST, torch.float32, policy, graphs or StepGraphs(None))


def cross(florence: Florence, count: int, seed: int) -> Tensor:
    """Keys and values (L, 2, R, H, S, d) of random states of 20 positions."""
    random = torch.Generator().manual_seed(seed)
    return florence.network.cross_keys_values(torch.randn(count, 20, florence.config.text.d_model, generator=random))


def run_out(running: Decoding) -> list[int]:
    """Step until one is done, and take it out."""
    while not (done := running.step()):
        pass
    ids = running.result(done[0])
    running.remove(done[0])
    return ids
