"""The evaluation's figures on answers whose worth is known by hand."""

from __future__ import annotations

import pytest

from vision_server.tasks import Shape
from vision_server.training.scoring import BoxScore, OutlineScore, edit_distance, exact, reading

SIZE = (100, 100)


def box(label: str, *corners: float) -> Shape:
    return Shape("box", label, [list(corners)])


def square(x: float, y: float, side: float, label: str = "") -> Shape:
    return Shape("polygon", label, [[x, y, x + side, y, x + side, y + side, x, y + side]])


@pytest.mark.parametrize(
    ("said", "true", "distance"),
    [("", "", 0), ("", "CAFE", 4), ("CAFE", "CAFE", 0), ("CAVE", "CAFE", 1), ("CAF", "CAFE", 1), ("ABC", "CAB", 2)],
)
def test_edit_distance(said: str, true: str, distance: int) -> None:
    assert edit_distance(said, true) == edit_distance(true, said) == distance


def test_labels_are_a_multiset_and_boxes_match_the_best_of_their_label() -> None:
    score = BoxScore()
    score.add(
        [box("car", 0, 0, 2, 2), box("car", 10, 10, 12, 12), box("tree", 5, 5, 6, 6)],
        [box("car", 10, 10, 12, 12), box("car", 0, 0, 2, 1), box("fish", 5, 5, 6, 6)],
        SIZE,
    )
    assert (score.said, score.true, score.common, score.hits) == (3, 3, 2, 2)
    figures = score.figures()
    assert figures == pytest.approx({"f1": 2 / 3, "labels_f1": 2 / 3, "mean_iou": (1 + 0.5) / 2})


def test_a_box_that_overlaps_by_less_than_half_is_no_hit() -> None:
    score = BoxScore()
    score.add([box("car", 0, 0, 10, 10)], [box("car", 0, 0, 10, 21)], SIZE)
    assert score.figures() == pytest.approx({"f1": 0, "labels_f1": 1, "mean_iou": 10 / 21})


def test_outlines_that_lack_or_are_too_many_count_as_nothing() -> None:
    score = OutlineScore()
    score.add([square(10, 10, 20)], [square(10, 10, 20), square(60, 60, 20)], SIZE)
    score.add([square(10, 10, 20), square(60, 60, 20)], [square(10, 10, 20)], SIZE)
    score.add([square(0, 0, 20)], [square(50, 50, 20)], SIZE)
    assert score.figures() == pytest.approx({"mean_iou": (1 + 1 + 0) / 5, "labels": 1 / 3}, abs=0.001)


def test_nothing_said_is_no_division_by_zero() -> None:
    assert BoxScore().figures() == {"f1": 0, "labels_f1": 0, "mean_iou": 0}
    assert OutlineScore().figures() == {"mean_iou": 0, "labels": 0}
    assert exact([]) == 0


def test_words_are_counted_apart_from_letters() -> None:
    figures = reading([("CAFE", "CAFE"), ("STAP", "STOP"), ("XQZ", "XQW"), ("no text", "KJH")])
    assert figures == {"words_exact": 0.5, "letters_character_error_rate": pytest.approx((1 + 7) / 6)}
