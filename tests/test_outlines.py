"""Overlaps of shapes whose areas are known by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_server.outlines import agrees, polygon_iou
from vision_server.tasks.regions import overlap

SIZE = (640, 480)


def rectangle(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    return [x1, y1, x2, y1, x2, y2, x1, y2]


SQUARE = rectangle(100, 100, 300, 300)


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ([SQUARE], [SQUARE], 1),
        ([SQUARE], [[300, 300, 300, 100, 100, 100, 100, 300]], 1),  # from elsewhere, backwards
        ([SQUARE], [[100, 100, 300, 100, 300, 300]], 1 / 2),  # its upper right half
        ([SQUARE], [rectangle(200, 100, 400, 300)], 1 / 3),
        ([SQUARE], [rectangle(400, 100, 500, 200)], 0),
        ([rectangle(100, 100, 200, 300), rectangle(200, 100, 300, 300)], [SQUARE], 1),  # in two parts
        ([SQUARE, rectangle(150, 150, 250, 250)], [SQUARE], 1),  # a ring inside another is no hole
        ([rectangle(540, 100, 9000, 300)], [rectangle(540, 100, 640, 300)], 1),  # outside does not count
        ([SQUARE], [], 0),
        ([], [], 0),
        ([[100, 100, 300, 300]], [[100, 100, 300, 300]], 0),  # a line encloses nothing
        ([[]], [SQUARE], 0),
        ([[*SQUARE, 5]], [SQUARE], 1),  # half a point
    ],
)
def test_intersection_over_union(one: list[list[float]], other: list[list[float]], share: float) -> None:
    assert polygon_iou(one, other, SIZE) == pytest.approx(share, abs=0.01)
    assert polygon_iou(other, one, SIZE) == polygon_iou(one, other, SIZE)


def test_the_pictures_shape_does_not_matter() -> None:
    small, large = polygon_iou([SQUARE], [rectangle(200, 100, 400, 300)], (400, 300)), 10_000
    wide = [[v * (large / 400 if i % 2 == 0 else 1) for i, v in enumerate(ring)] for ring in (SQUARE,)]
    other = [[v * (large / 400 if i % 2 == 0 else 1) for i, v in enumerate(rectangle(200, 100, 400, 300))]]
    assert polygon_iou(wide, other, (large, 300)) == pytest.approx(small, abs=0.01)


SIDE = st.tuples(st.integers(0, 440), st.integers(20, 200))


@given(SIDE, SIDE, SIDE, SIDE)
def test_rectangles_overlap_as_boxes_do(
    x: tuple[int, int], y: tuple[int, int], u: tuple[int, int], v: tuple[int, int]
) -> None:
    one = [x[0], y[0], x[0] + x[1], y[0] + y[1]]
    other = [u[0], v[0], u[0] + u[1], v[0] + v[1]]
    assert polygon_iou([rectangle(*one)], [rectangle(*other)], (640, 640)) == pytest.approx(
        overlap(one, other), abs=0.1
    )


BOXES = {"bboxes": [[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 40.0]], "labels": ["car", "car"]}
MASK = {"polygons": [[SQUARE]], "labels": ["car"]}
QUADS = {"quad_boxes": [SQUARE], "labels": ["STOP"]}
MIXED = {"bboxes": [[0, 0, 9, 9]], "bboxes_labels": ["car"], "polygons": [[SQUARE]], "polygons_labels": ["car"]}


@pytest.mark.parametrize(
    ("said", "true", "right"),
    [
        ("a car", "a car", True),
        ("a car", "a  car", False),
        ("a car", BOXES, False),
        (BOXES, "a car", False),
        ({"bboxes": [[0, 0, 10, 8], [20, 20, 40, 38]], "labels": ["car", "car"]}, BOXES, True),
        ({"bboxes": [[20, 20, 40, 38], [0, 0, 10, 8]], "labels": ["car", "car"]}, BOXES, True),  # in another order
        ({"bboxes": [[0, 0, 10, 4], [20, 20, 40, 40]], "labels": ["car", "car"]}, BOXES, False),
        ({"bboxes": [[0, 0, 10, 10], [0, 0, 10, 9]], "labels": ["car", "car"]}, BOXES, False),  # one of them twice
        ({"bboxes": [[0, 0, 10, 10], [20, 20, 40, 40]], "labels": ["car", "bus"]}, BOXES, False),
        ({"bboxes": [[0, 0, 10, 10]], "labels": ["car"]}, BOXES, False),
        ({"bboxes": [], "labels": []}, {"bboxes": [], "labels": []}, True),
        ({"bboxes": [[100, 100, 300, 300]], "labels": ["car"]}, MASK, False),
        ({"polygons": [[rectangle(100, 100, 300, 240)]], "labels": ["car"]}, MASK, True),
        ({"polygons": [[rectangle(100, 100, 300, 210)]], "labels": ["car"]}, MASK, False),
        ({"quad_boxes": [rectangle(100, 100, 300, 240)], "labels": ["STOP"]}, QUADS, True),
        ({"quad_boxes": [rectangle(100, 100, 300, 240)], "labels": ["STOR"]}, QUADS, False),
        ({"quad_boxes": [rectangle(100, 100, 300, 210)], "labels": ["STOP"]}, QUADS, False),
        (MIXED, MIXED, True),
        ({**MIXED, "polygons": [[rectangle(0, 0, 9, 9)]]}, MIXED, False),
    ],
)
def test_what_counts_as_right(said: str | dict[str, Any], true: str | dict[str, Any], right: bool) -> None:
    assert agrees(said, true, SIZE) is right
