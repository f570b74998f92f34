"""The short form of the fidelity benchmark, and that its judgement can go against us."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.bench.fidelity import MODELS, SMALL_GAP, Case, reference_gap, report, requests, short_cases
from tests.bench.machine import RESULTS
from tests.tiny import LIVELY, Search, picture, random_model, write_checkpoint
from vision_server.engine import Florence


def test_sixty_cases_are_token_identical() -> None:
    found = report(list(short_cases()))
    assert found["cases"] == 60
    assert set(found["by_layout"]) == {"native", "original", "re-saved"}
    assert found["different_answers"] >= 10, "answers that are all alike would prove nothing"
    assert found["identical"] == found["cases"], found["differing"]


def test_the_committed_result_is_the_whole_form_s() -> None:
    found = json.loads((RESULTS / "fidelity.json").read_text(encoding="utf-8"))
    assert found["cases"] >= 1000
    assert all(case["excused"] for case in found["differing"])
    assert found["identical"] + len(found["differing"]) == found["cases"]


def test_a_case_that_differs_is_counted_and_listed() -> None:
    same = Case("m", "native", Search(), "p", [0, 5, 2], [0, 5, 2])
    tie = Case("m", "original", Search(), "p", [0, 5, 2], [0, 6, 2], gap=SMALL_GAP / 2)
    wrong = Case("m", "original", Search(), "p", [0, 5, 2], [0, 7, 2], gap=0.1)
    found = report([same, tie, wrong])
    assert (found["cases"], found["identical"]) == (3, 1)
    assert found["by_layout"] == {"native": "1 of 1", "original": "0 of 2"}
    assert [(case["said"], case["excused"]) for case in found["differing"]] == [([0, 6, 2], True), ([0, 7, 2], False)]


def test_the_gap_is_the_references_own(tmp_path: Path) -> None:
    """Two tokens with one embedding between them have one score; in the model as it is none are so near."""
    shape, (asked,) = MODELS[0], requests(1, 0, picture)
    write_checkpoint(tmp_path, shape)
    ours, oracle = Florence.load(tmp_path, "cpu", "float32"), random_model(shape)
    for search in (Search(1, 8), Search(3, 8)):
        assert reference_gap(oracle, ours, asked, search) > SMALL_GAP
    with torch.no_grad():
        shared = oracle.model.language_model.shared.weight
        for token in LIVELY[1:]:
            shared[token - 100] = shared[token]
    for search in (Search(1, 8), Search(3, 8)):
        assert reference_gap(oracle, ours, asked, search) < SMALL_GAP
