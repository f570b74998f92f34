"""Answers as the text that a model would generate for them: what is written is read again as it was."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_server.errors import BadInput
from vision_server.tasks import answer, written
from vision_server.tasks.regions import BINS

SIZE = (640, 481)

CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "boxes of one label stand behind it once": (
        "<OD>",
        {"bboxes": [[0, 0, 64, 48.1], [64, 48.1, 640, 481], [1, 2, 30, 40]], "labels": ["car", "car", "tree"]},
        "car<loc_0><loc_0><loc_100><loc_100><loc_100><loc_100><loc_999><loc_999>tree<loc_1><loc_4><loc_46><loc_83>",
    ),
    "proposals have no label": (
        "<REGION_PROPOSAL>",
        {"bboxes": [[0, 0, 64, 48.1]], "labels": [""]},
        "<loc_0><loc_0><loc_100><loc_100>",
    ),
    "each quad has its label": (
        "<OCR_WITH_REGION>",
        {"quad_boxes": [[0, 0, 64, 0, 64, 48.1, 0, 48.1]] * 2, "labels": ["EXIT", "EXIT"]},
        "EXIT<loc_0><loc_0><loc_100><loc_0><loc_100><loc_100><loc_0><loc_100>" * 2,
    ),
    "rings of one object": (
        "<REFERRING_EXPRESSION_SEGMENTATION>",
        {"polygons": [[[0, 0, 64, 0, 64, 48.1], [320, 0, 384, 0, 384, 48.1]]], "labels": [""]},
        "<loc_0><loc_0><loc_100><loc_0><loc_100><loc_100><sep><loc_500><loc_0><loc_600><loc_0><loc_600><loc_100>",
    ),
    "several objects": (
        "<REGION_TO_SEGMENTATION>",
        {"polygons": [[[0, 0, 64, 0, 64, 48.1]]] * 2, "labels": ["", ""]},
        "<poly><loc_0><loc_0><loc_100><loc_0><loc_100><loc_100></poly>" * 2,
    ),
    "boxes beside outlines": (
        "<OPEN_VOCABULARY_DETECTION>",
        {
            "bboxes": [[0, 0, 64, 48.1]],
            "bboxes_labels": ["cat"],
            "polygons": [[[0, 0, 64, 0, 64, 48.1]]],
            "polygons_labels": ["cat"],
        },
        "cat<loc_0><loc_0><loc_100><loc_100>cat<poly><loc_0><loc_0><loc_100><loc_0><loc_100><loc_100></poly>",
    ),
    "nothing there": ("<OD>", {"bboxes": [], "labels": []}, ""),
}


@pytest.mark.parametrize(("token", "result", "text"), CASES.values(), ids=CASES)
def test_places_are_written_as_they_are_read(token: str, result: dict[str, Any], text: str) -> None:
    assert written(result, SIZE) == text
    back = answer(token, text, SIZE)
    assert isinstance(back, dict)
    assert {key for key in back if back[key]} == {key for key in result if result[key]}
    for key, values in result.items():
        if "labels" in key:
            assert back[key] == values
        else:
            assert _flat(back[key]) == pytest.approx(_flat(values), abs=SIZE[0] / BINS)


def _flat(value: Any) -> list[float]:
    return [leaf for one in value for leaf in _flat(one)] if isinstance(value, list) else [value]


@given(st.lists(st.integers(0, BINS - 1), min_size=4, max_size=4), st.integers(1, 5000), st.integers(1, 5000))
def test_what_was_read_is_written_with_the_same_bins(bins: list[int], width: int, height: int) -> None:
    x1, y1, x2, y2 = bins
    text = f"a thing<loc_{min(x1, x2)}><loc_{min(y1, y2)}><loc_{max(x1, x2)}><loc_{max(y1, y2)}>"
    if x1 == x2 or y1 == y2:
        return
    read = answer("<OD>", text, (width, height))
    assert written(read, (width, height)) == text


def test_texts_lose_the_marks_of_their_ends() -> None:
    assert written("  <s>a car</s><pad> ", SIZE) == "a car"


@pytest.mark.parametrize(
    ("result", "wrong"),
    [
        ({"labels": []}, "a text, or an object with bboxes"),
        ({"bboxes": {}, "labels": []}, "not a list"),
        ({"bboxes": [[0, 0, 1, 1]], "labels": []}, "not as many labels"),
        ({"bboxes": [[0, 0, 1, 1]]}, "not as many labels"),
        ({"bboxes": [[0, 0, 1, 1]], "labels": [7]}, "not all texts"),
        ({"bboxes": [[0, 0, 1]], "labels": ["a"]}, "has 4 numbers"),
        ({"bboxes": [[0, 0, "1", 1]], "labels": ["a"]}, "not made of numbers"),
        ({"bboxes": [7], "labels": ["a"]}, "not a list of numbers"),
        ({"bboxes": [[0, 0, 641, 1]], "labels": ["a"]}, "outside the picture"),
        ({"bboxes": [[-1, 0, 64, 1]], "labels": ["a"]}, "outside the picture"),
        ({"bboxes": [[5, 0, 5, 1]], "labels": ["a"]}, "empty or inside out"),
        ({"quad_boxes": [[0, 0, 1, 1]], "labels": ["a"]}, "has 8 numbers"),
        ({"polygons": [[[0, 0, 1, 1]]], "labels": [""]}, "six or more"),
        ({"polygons": [[0, 0, 1, 1, 2, 2]], "labels": [""]}, "not a list of numbers"),
    ],
)
def test_another_form_is_refused(result: dict[str, Any], wrong: str) -> None:
    with pytest.raises(BadInput, match=wrong):
        written(result, SIZE)
