"""Overlaps of shapes whose areas are known by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_server.outlines import polygon_iou
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
