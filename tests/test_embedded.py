"""The embedded checkpoint: what it promises, and that it is read as transformers reads it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from tests.tiny import Search, oracle_generate, oracle_inputs
from vision_server.catalog import EMBEDDED, resolve
from vision_server.engine import Florence
from vision_server.tasks import TASKS, of_token, sentence
from vision_server.training.drawing import draw
from vision_server.training.evaluate import evaluate
from vision_server.training.questions import PROMPTS, ask
from vision_server.training.scenes import EVAL_SEEDS, scene

DEMO = resolve("demo")
RESULTS = Path(__file__).parent / "bench" / "results"


@pytest.fixture(scope="module")
def ours() -> Florence:
    return Florence.load(EMBEDDED, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def oracle() -> Florence2ForConditionalGeneration:
    return Florence2ForConditionalGeneration.from_pretrained(EMBEDDED, dtype=torch.float32).eval()


def test_it_is_small_and_advises_what_it_was_trained_for() -> None:
    network = Florence.load(EMBEDDED, device="cpu", dtype="float32", plain=True).network
    assert 3e6 <= sum(parameter.numel() for parameter in network.text.parameters()) + sum(
        parameter.numel() for parameter in network.vision_tower.parameters()
    )
    assert sum(tensor.numel() for tensor in network.state_dict().values()) <= 8e6
    assert sum(file.stat().st_size for file in EMBEDDED.iterdir()) <= 16e6
    assert DEMO.prompts == PROMPTS == tuple(task.token for task in TASKS)


def test_features_and_logits_equal_transformers(ours: Florence, oracle: Florence2ForConditionalGeneration) -> None:
    asked = [(draw(scene(seed)), "What does the image describe?") for seed in EVAL_SEEDS[:4]]
    inputs = oracle_inputs(ours, asked)
    answer_ids = torch.arange(300, 312).expand(4, -1)
    with torch.no_grad():
        expected = oracle(**inputs, decoder_input_ids=answer_ids)
        features = ours.network.look(inputs["pixel_values"])
        states = ours.network.text.encode(features, inputs["input_ids"][:, features.shape[1] :])
        logits = ours.network.text.decode(answer_ids, states)
        oracle_features = oracle.get_image_features(inputs["pixel_values"]).pooler_output
    torch.testing.assert_close(features, oracle_features, atol=1e-4, rtol=0)
    torch.testing.assert_close(states, expected.encoder_last_hidden_state, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("search", [Search(max_new_tokens=60), Search(num_beams=1), Search(num_beams=5)], ids=str)
def test_answers_equal_transformers_token_for_token(
    ours: Florence, oracle: Florence2ForConditionalGeneration, search: Search
) -> None:
    """Three pictures and every prompt, 225 pairs in all searches, in batches of mixed prompts."""
    pairs = [
        (draw(one), ask(one, token).sentence(one.size_px))
        for one in map(scene, EVAL_SEEDS[1000:1003])
        for token in PROMPTS
    ]
    for first in range(0, len(pairs), 10):
        batch = pairs[first : first + 10]
        expected = oracle_generate(oracle, ours, batch, search)
        assert [answer.token_ids for answer in ours.generate(batch, **asdict(search))] == expected


def test_the_picture_goes_to_transformers_processor_unchanged(ours: Florence) -> None:
    picture = draw(scene(EVAL_SEEDS[5]))
    inputs = AutoProcessor.from_pretrained(EMBEDDED)(images=picture, text="<OD>", return_tensors="pt")
    mine = oracle_inputs(ours, [(picture, sentence(of_token("<OD>"), "", None, (1, 1)))])
    assert inputs["input_ids"].tolist() == mine["input_ids"].tolist()
    torch.testing.assert_close(inputs["pixel_values"], mine["pixel_values"], atol=2e-5, rtol=0)


@pytest.mark.timeout(1800)  # a minute of computing, which a busy machine may spread over many
def test_it_sees_what_the_readme_says(ours: Florence) -> None:
    """The committed figures of the short form, counted again: give or take what rounding may flip."""
    committed = json.loads((RESULTS / "embedded.json").read_text(encoding="utf-8"))["short"]
    figures = evaluate(ours, [scene(seed) for seed in EVAL_SEEDS[: committed["scenes"]]])
    assert set(figures) == set(committed["figures"])
    for token, values in committed["figures"].items():
        assert figures[token] == pytest.approx(values, abs=0.03), token


def test_the_committed_figures_keep_what_was_promised() -> None:
    report = json.loads((RESULTS / "embedded.json").read_text(encoding="utf-8"))
    figures = report["figures"]
    assert report["scenes"] >= 500
    assert set(figures) == set(PROMPTS)
    for token, values in figures.items():
        kind = of_token(token).answer
        if kind == "text":
            assert values["exact"] >= 0.75, token
        elif kind in ("quads", "polygons"):
            assert values["mean_iou"] >= 0.6, token
        else:
            assert values["f1"] >= 0.85, token
    assert figures["<CAPTION>"]["exact"] >= 0.9
    assert figures["<OD>"]["labels_f1"] >= 0.95
    assert figures["<OD>"]["mean_iou"] >= 0.7
    assert figures["<OCR>"]["words_exact"] >= 0.8
