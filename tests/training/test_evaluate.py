"""The evaluation's figures on answers whose worth is known by hand."""

from __future__ import annotations

import pytest

from vision_server.training.evaluate import BoxScore, edit_distance


@pytest.mark.parametrize(
    ("said", "true", "distance"),
    [("", "", 0), ("", "CAFE", 4), ("CAFE", "CAFE", 0), ("CAVE", "CAFE", 1), ("CAF", "CAFE", 1), ("ABC", "CAB", 2)],
)
def test_edit_distance(said: str, true: str, distance: int) -> None:
    assert edit_distance(said, true) == edit_distance(true, said) == distance


def test_labels_are_a_multiset_and_boxes_match_the_best_of_their_label() -> None:
    score = BoxScore()
    score.add(
        {"labels": ["car", "car", "tree"], "bboxes": [[0, 0, 2, 2], [10, 10, 12, 12], [5, 5, 6, 6]]},
        {"labels": ["car", "car", "fish"], "bboxes": [[10, 10, 12, 12], [0, 0, 2, 1], [5, 5, 6, 6]]},
    )
    assert (score.said, score.true, score.common) == (3, 3, 2)
    assert score.figures() == {"labels_f1": pytest.approx(2 / 3), "mean_iou": pytest.approx((1 + 0.5) / 2)}


def test_nothing_said_is_no_division_by_zero() -> None:
    assert BoxScore().figures() == {"labels_f1": 0, "mean_iou": 0}
