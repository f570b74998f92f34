"""Figures of a handful of answers, each counted by hand; average precision against COCO's definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vision_server.evaluation.detection import Detections
from vision_server.evaluation.measures import Answer, Answered, measures
from vision_server.tasks import Shape

SIZE = (100, 100)


def boxes(*labelled: tuple[str, list[float]]) -> dict[str, Any]:
    return {"bboxes": [box for _, box in labelled], "labels": [label for label, _ in labelled]}


def quads(*labelled: tuple[str, list[float]]) -> dict[str, Any]:
    corners = [[x, y, X, y, X, Y, x, Y] for _, (x, y, X, Y) in labelled]
    return {"quad_boxes": corners, "labels": [label for label, _ in labelled]}


def counted(token: str, *pairs: tuple[Answer, Answer | tuple[str, ...]]) -> dict[str, float | None]:
    rows = [
        Answered(str(at), f"{at}.png", SIZE, said, true if isinstance(true, tuple) else (true,))
        for at, (said, true) in enumerate(pairs)
    ]
    return {name: one.value() for name, one in measures(token, rows).items()}


def shape(label: str, *box: float) -> Shape:
    return Shape("box", label, [list(box)])


def test_texts() -> None:
    found = counted("<CAPTION>", ("a red car", "a red car"), ("a dog", ("a cat", "a dog")), ("no", "a house on a hill"))
    assert list(found) == ["exact", "cider"]
    assert found["exact"] == pytest.approx(2 / 3)
    assert found["cider"] is not None
    assert 0 < found["cider"] < 10


def test_letters_of_the_nearest_truth() -> None:
    """One of four is wrong, one of four is missing, one too many: 3 of 11."""
    found = counted("<OCR>", ("OPEM", "OPEN"), ("EXI", ("EXIT", "ENTRANCE")), ("GOO", ("ELSEWHERE", "GO2")), ("", ""))
    assert found["cer"] == pytest.approx(3 / 11)
    assert "cer" not in counted("<CAPTION>", ("a", "b"))


def test_places() -> None:
    right, half, off = [10.0, 10.0, 30.0, 30.0], [10.0, 10.0, 30.0, 20.0], [60.0, 60.0, 90.0, 90.0]
    found = counted(
        "<OD>",
        (boxes(("car", right)), boxes(("car", right))),
        (boxes(("car", half), ("dog", off)), boxes(("car", right), ("cat", off))),
    )
    assert found["exact"] == pytest.approx(0.5)
    assert found["iou"] == pytest.approx((1 + 0.25) / 2)
    # of "car" both are met at .5, and one above; the only "cat" is not; "dog" is no label of a true place
    assert found["ap50"] == pytest.approx(0.5, abs=1e-3)
    assert found["ap"] == pytest.approx((1.0 + 9 * 51 / 101) / 10 / 2, abs=1e-3)


def test_pieces_of_text_have_no_category() -> None:
    where = [10.0, 10.0, 50.0, 30.0]
    found = counted("<OCR_WITH_REGION>", (quads(("OPEM", where)), quads(("OPEN", where))))
    assert found["cer"] == pytest.approx(0.25)
    assert [found[name] for name in ("exact", "iou", "ap50", "ap")] == pytest.approx([0.0, 1.0, 1.0, 1.0])


def test_outlines_and_what_encloses_nothing() -> None:
    square = {"polygons": [[[10.0, 10.0, 50.0, 10.0, 50.0, 50.0, 10.0, 50.0]]], "labels": [""]}
    line = {"polygons": [[[10.0, 10.0, 50.0, 10.0]]], "labels": [""]}
    token = "<REFERRING_EXPRESSION_SEGMENTATION>"
    assert counted(token, (square, square))["ap"] == pytest.approx(1.0)
    assert counted(token, (line, square))["ap50"] == 0.0
    assert counted(token, ({"polygons": [], "labels": []}, square))["iou"] == 0.0


def test_without_true_places_there_is_no_precision() -> None:
    nothing = boxes()
    assert counted("<OD>", (nothing, nothing)) == {"exact": 1.0, "ap50": None, "ap": None, "iou": 1.0}


def test_questions_that_are_drawn_again_count_as_often() -> None:
    """Weights say the same as a set in which the questions stand so often."""
    chance = np.random.default_rng(4)
    places = []
    for _ in range(12):
        true = [
            shape(str(label), x, x, x + 20, x + 20) for label, x in zip("ab", chance.uniform(0, 70, 2), strict=True)
        ]
        said = [shape(one.label, *(np.array(one.rings[0]) + chance.normal(0, 4, 4))) for one in true]
        places.append((said[: chance.integers(0, 3)], true))
    weights = np.array([2, 0, 1, 1, 3, 0, 0, 1, 1, 1, 2, 0], np.float64)
    again = [pair for pair, count in zip(places, weights, strict=True) for _ in range(int(count))]
    for first_only in (True, False):
        drawn = Detections(places, [SIZE] * 12, first_only)
        whole = drawn.value()
        assert drawn.value(weights) == pytest.approx(Detections(again, [SIZE] * 12, first_only).value())
        assert drawn.value(np.ones(12)) == pytest.approx(whole)
        assert drawn.value() == whole, "what was drawn leaves no trace"
