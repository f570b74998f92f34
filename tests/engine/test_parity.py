"""Ours against transformers' Florence-2 in float32: features, states, logits, and beam search token for token."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace

import pytest
import torch
from PIL import Image

from tests.engine.conftest import Pair
from tests.tiny import Search, oracle_generate, oracle_inputs, picture
from vision_server.engine import Florence, Generation, Options
from vision_server.engine.cache import DecoderCache
from vision_server.engine.policy import Extent, Plan

PROMPTS = (
    "What does the image describe?",
    "Locate the objects with category name in the image.",
    "<GENERATE_TAGS>",
    "Locate the phrases in the caption: two cars, a tree and<loc_7> a fish",
)


def requests(count: int, first_seed: int = 0) -> list[tuple[Image.Image, str]]:
    prompts = itertools.cycle(PROMPTS)
    return [(picture(first_seed + n, (60 + 5 * n % 40, 50 + 3 * n % 30)), next(prompts)) for n in range(count)]


def test_features_states_and_logits_agree(pair: Pair) -> None:
    asked = requests(4)
    inputs = oracle_inputs(pair.ours, asked)
    answer_ids = torch.randint(3, 1400, (4, 9), generator=torch.Generator().manual_seed(5))
    network, text = pair.ours.network, pair.ours.network.text
    with torch.no_grad():
        expected = pair.oracle(**inputs, decoder_input_ids=answer_ids)
        features = network.look(inputs["pixel_values"])
        prompt_ids = inputs["input_ids"][:, features.shape[1] :]
        prompt_mask = inputs["attention_mask"][:, features.shape[1] :].bool()
        states = text.encode(features, prompt_ids, prompt_mask)
        mask = inputs["attention_mask"].bool()
        logits = text.decode(answer_ids, states, mask)
        oracle_features = pair.oracle.get_image_features(inputs["pixel_values"]).pooler_output
    assert not mask.all(), "the prompts must differ in length"
    torch.testing.assert_close(features, oracle_features, atol=1e-4, rtol=0)
    torch.testing.assert_close(states[mask], expected.encoder_last_hidden_state[mask], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)
    assert logits.std() > 0.1, "logits that do not vary would prove nothing"


def test_a_step_agrees_with_its_whole_sequence_twin(pair: Pair) -> None:
    """Two requests, their sources padded, the second joining three tokens late."""
    network, text = pair.ours.network, pair.ours.network.text
    inputs = oracle_inputs(pair.ours, requests(2))
    ids = torch.randint(3, 1400, (2, 12), generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        features = network.look(inputs["pixel_values"])
        images = features.shape[1]
        mask = inputs["attention_mask"].bool()
        states = text.encode(features, inputs["input_ids"][:, images:], mask[:, images:])
        expected = text.decode(ids, states, mask)
        layers = pair.ours.config.text.decoder_layers
        heads = pair.ours.config.text.decoder_attention_heads
        head_dim = pair.ours.config.text.d_model // heads
        cross, sources = network.cross_keys_values(states), mask.sum(1).tolist()
        size = Extent(rows=1, width=1, span=12, sources=cross.shape[4])
        cache = DecoderCache(layers, heads, head_dim, size, torch.device("cpu"), torch.float32)
        cache.add(0, cross[:, :, :1], sources[:1])
        for t in range(3):
            step = cache.open(Plan(size, True, ()), torch.tensor([[t]]))
            assert_step(text.step(ids[:1, t : t + 1], step), expected[:1, t])
        size = replace(size, rows=2)
        cache = cache.grown(size)
        cache.add(1, cross[:, :, 1:], sources[1:])
        for t in range(9):
            step = cache.open(Plan(size, True, ()), torch.tensor([[t + 3], [t]]))
            step_ids = torch.stack([ids[0, t + 3], ids[1, t]])[:, None]
            assert_step(text.step(step_ids, step), torch.stack([expected[0, t + 3], expected[1, t]]))


def assert_step(logits_RWV: torch.Tensor, expected_RV: torch.Tensor) -> None:
    torch.testing.assert_close(logits_RWV[:, 0], expected_RV, atol=1e-4, rtol=0)


SEARCHES = (
    Search(),
    Search(num_beams=1),
    Search(num_beams=5),
    Search(no_repeat_ngram_size=0, max_new_tokens=60),
    Search(early_stopping=False),
    Search(length_penalty=2.0, early_stopping=False),
    Search(length_penalty=0.0),
    Search(length_penalty=-0.5, early_stopping=False),
    Search(num_beams=5, no_repeat_ngram_size=2, max_new_tokens=12),
    Search(num_beams=1, no_repeat_ngram_size=0, max_new_tokens=100),
    Search(max_new_tokens=1),
    Search(max_new_tokens=2),
    Search(num_beams=8, no_repeat_ngram_size=1, max_new_tokens=20),
)


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_beam_search_is_token_identical(pair: Pair, search: Search) -> None:
    """13 searches x 3 shapes x 8 pairs; prompts and lengths mixed in one batch."""
    asked = requests(8, first_seed=100)
    expected = oracle_generate(pair.oracle, pair.ours, asked, search)
    ours = pair.ours.generate(asked, **asdict(search))
    assert [answer.token_ids for answer in ours] == expected
    assert len({tuple(ids) for ids in expected}) > (1 if search.max_new_tokens > 2 else 0)


def test_without_forced_tokens(pair: Pair) -> None:
    """A checkpoint whose generation_config.json forces nothing."""
    config = replace(
        pair.ours.config,
        generation=replace(pair.ours.config.generation, forced_bos_token_id=None, forced_eos_token_id=None),
    )
    unforced = Florence(pair.ours.network, config, pair.ours.tokenizer, torch.device("cpu"), torch.float32)
    for search in (Search(max_new_tokens=15), Search(num_beams=1, max_new_tokens=15)):
        asked = requests(6, first_seed=300)
        expected = oracle_generate(pair.oracle, unforced, asked, search, forced=False)
        assert [answer.token_ids for answer in unforced.generate(asked, **asdict(search))] == expected


def test_requests_with_different_options_share_a_batch(pair: Pair) -> None:
    """Mixed beams, limits and bans in one running decode equal their solo runs, and so the oracle."""
    searches = [SEARCHES[n % len(SEARCHES)] for n in range(10)]
    asked = requests(10, first_seed=500)
    expected = [oracle_generate(pair.oracle, pair.ours, [one], s)[0] for one, s in zip(asked, searches, strict=True)]
    tickets = [pair.ours.submit(*one, Options(**asdict(s))) for one, s in zip(asked, searches, strict=True)]
    answers: dict[int, Generation] = {}
    while pair.ours.busy:
        answers.update(pair.ours.step())
    assert [answers[ticket].token_ids for ticket in tickets] == expected
