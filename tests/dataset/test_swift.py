"""ms-swift's grounding form: placeholders and objects -> location tokens, in every measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vision_server.dataset.rows import Row
from vision_server.dataset.swift import read_objects
from vision_server.errors import BadInput

SIZE = (640, 480)
LOCATIONS = "<loc_100><loc_250><loc_500><loc_750>"
BOXES: dict[str, list[float]] = {
    "real": [64, 120, 320, 360],
    "norm_1000": [100, 250, 500, 750],
    "norm_1": [0.1, 0.25, 0.5, 0.75],
    "norm1": [0.1, 0.25, 0.5, 0.75],
}


def filled(query: str, response: str, objects: Any) -> tuple[str, str]:
    example = Row("here", Path("a.png"), query, response, objects=read_objects(objects)).example(SIZE)
    return example.sentence, example.answer


@pytest.mark.parametrize(("kind", "box"), BOXES.items())
@pytest.mark.parametrize("form", ["text", "list", "lists"])
def test_a_box_in_every_measure(kind: str, box: list[float], form: str) -> None:
    objects: Any = [{"caption": "guy in red", "bbox": box, "bbox_type": kind, "image": 0}]
    if form == "lists":
        objects = {"ref": ["guy in red"], "bbox": [box], "bbox_type": kind}
    given = json.dumps(objects) if form == "text" else objects
    assert filled("Find <bbox>", "<ref-object>", given) == (f"Find {LOCATIONS}", "guy in red")
    assert filled("Find <ref-object>", "<bbox>", given) == ("Find guy in red", LOCATIONS)


def test_every_bin_of_a_thousand_stays_itself() -> None:
    """Brought to pixels and back, some would be one less."""
    for index in range(999):
        box = {"ref": [], "bbox": [[index, index, 999, 999]], "bbox_type": "norm_1000"}
        assert filled("Look.", "<bbox>", box)[1] == f"<loc_{index}><loc_{index}><loc_999><loc_999>"


def test_pixels_are_the_default() -> None:
    assert filled("Look.", "<bbox>", [{"caption": "", "bbox": BOXES["real"]}])[1] == LOCATIONS


def test_several_in_their_order() -> None:
    objects = {"ref": ["a dog", "a woman"], "bbox": [[0, 0, 64, 48], [320, 240, 640, 480]]}
    question, answer = filled("Describe.", "<ref-object><bbox> and <ref-object><bbox>", objects)
    assert question == "Describe."
    assert answer == "a dog<loc_0><loc_0><loc_100><loc_100> and a woman<loc_500><loc_500><loc_999><loc_999>"


def test_one_name_and_many_boxes() -> None:
    objects = {"ref": ["sheep"], "bbox": [[0, 0, 64, 48], [320, 240, 640, 480]]}
    assert filled("Find <ref-object>", "<bbox><bbox>", objects) == (
        "Find sheep",
        "<loc_0><loc_0><loc_100><loc_100><loc_500><loc_500><loc_999><loc_999>",
    )
    nested = [{"caption": "sheep", "bbox": [[0, 0, 64, 48], [320, 240, 640, 480]]}]
    assert filled("Find <ref-object>", "<bbox>", nested)[1] == filled("Find <ref-object>", "<bbox><bbox>", objects)[1]


def test_a_prompt_of_ours_takes_name_and_box() -> None:
    objects = [{"caption": "guy in red", "bbox": BOXES["real"]}]
    assert filled("<OPEN_VOCABULARY_DETECTION><ref-object>", "<ref-object><bbox>", objects) == (
        "Locate guy in red in the image.",
        f"guy in red{LOCATIONS}",
    )
    assert filled("<REGION_TO_CATEGORY><bbox>", "<ref-object>", objects)[0] == f"What is the region {LOCATIONS}?"


def test_a_point() -> None:
    assert filled("Click.", "at <bbox>", {"ref": [], "bbox": [[320, 240]]})[1] == "at <loc_500><loc_500>"


@pytest.mark.parametrize(
    ("objects", "wrong"),
    [
        ([{"caption": "x", "bbox": [0, 0, 641, 10]}], "outside the picture"),
        ([{"caption": "x", "bbox": [0, 0, 1001, 10], "bbox_type": "norm_1000"}], "outside the picture"),
        ([{"caption": "x", "bbox": [0, 0, 1.01, 1], "bbox_type": "norm_1"}], "outside the picture"),
        ([{"caption": "x", "bbox": [10, 0, 10, 10]}], "inside out"),
        ([{"caption": "x", "bbox": [1, 2, 3]}], "four numbers"),
        ([{"caption": "x"}], "four numbers"),
        ([], "more <ref-object> than objects"),
        ([{"caption": 7, "bbox": [0, 0, 1, 1]}], "texts"),
        ({"ref": "x", "bbox": []}, "lists"),
    ],
)
def test_what_does_not_fit_is_refused(objects: Any, wrong: str) -> None:
    with pytest.raises(BadInput, match=wrong):
        filled("Find <ref-object>", "<bbox>", objects)
