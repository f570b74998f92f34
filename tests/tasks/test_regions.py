from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_server.errors import BadInput
from vision_server.tasks.regions import BINS, Region, dequantize, overlap, quantize

SIDES = st.integers(1, 16_384)


@pytest.mark.parametrize(
    ("value", "size", "expected"),
    [(0, 640, 0), (0.64, 640, 1), (0.639, 640, 0), (320, 640, 500), (640, 640, 999), (-3, 640, 0), (9999, 640, 999)],
)
def test_quantize(value: float, size: int, expected: int) -> None:
    assert quantize(value, size) == expected


def test_dequantize_is_the_middle_of_the_bin() -> None:
    assert dequantize(0, 1000) == 0.5
    assert dequantize(999, 640) == 639.68


@given(index=st.integers(0, BINS - 1), size=SIDES)
def test_a_bin_survives_pixels(index: int, size: int) -> None:
    assert quantize(dequantize(index, size), size) == index


@given(size=SIDES, share=st.floats(0, 1))
def test_a_pixel_stays_within_half_a_bin(size: int, share: float) -> None:
    value = share * size
    assert abs(dequantize(quantize(value, size), size) - value) <= size / BINS / 2 * (1 + 1e-9)


@pytest.mark.parametrize(
    "given_region",
    [
        [64, 48, 320, 480],
        (64.0, 48.0, 320.0, 480.0),
        "[64, 48, 320, 480]",
        "64,48,320,480",
        " <loc_100><loc_100><loc_500><loc_999> ",
        "<loc_100> <loc_100> <loc_500> <loc_999>",
    ],
)
def test_ways_to_give_a_region(given_region: Any) -> None:
    assert Region.parse(given_region).locations((640, 480)) == "<loc_100><loc_100><loc_500><loc_999>"


def test_each_axis_has_its_own_size() -> None:
    assert Region.parse([10, 10, 20, 20]).locations((100, 1000)) == "<loc_100><loc_10><loc_200><loc_20>"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ([1, 2, 3], "four"),
        ([1, 2, 3, 4, 5], "four"),
        ([], "four"),
        ({"x": 1}, "four"),
        (7, "four"),
        ("", "cannot be read"),
        ("1,2,3", "four"),
        ("a,b,c,d", "cannot be read"),
        ("1," * 5000, "cannot be read"),
        ("<loc_1><loc_2><loc_3>", "cannot be read"),
        ("<loc_1><loc_2><loc_3><loc_1000>", "cannot be read"),
        ("<loc_5><loc_2><loc_3><loc_9>", "inside out"),
        ("<loc_1><loc_9><loc_3><loc_2>", "inside out"),
        ([5, 5, 5, 9], "x1 must be less than x2"),
        ([5, 9, 6, 9], "y1 less than y2"),
        ([9, 5, 5, 9], "inside out"),
        ([1, 2, "3", 4], "numbers"),
        ([1, 2, None, 4], "numbers"),
        ([False, 0, True, 1], "numbers"),
        ([0, 0, math.nan, 4], "finite"),
        ([0, 0, math.inf, 4], "finite"),
        ("0,0,nan,4", "finite"),
        ([0, 0, 10**400, 4], "finite"),
    ],
)
def test_what_is_wrong_whatever_the_picture(wrong: Any, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Region.parse(wrong)


@pytest.mark.parametrize(
    "outside", [[-1, 0, 5, 5], [0, -0.5, 5, 5], [0, 0, 641, 5], [0, 0, 5, 480.5], [700, 0, 800, 9]]
)
def test_outside_the_picture(outside: list[float]) -> None:
    with pytest.raises(BadInput, match="outside the picture, which is 640 x 480 pixels"):
        Region.parse(outside).locations((640, 480))


def test_the_whole_picture_is_inside() -> None:
    assert Region.parse([0, 0, 640, 480]).locations((640, 480)) == "<loc_0><loc_0><loc_999><loc_999>"


def test_overlap_of_two_boxes() -> None:
    assert overlap([0, 0, 2, 2], [0, 0, 2, 2]) == 1
    assert overlap([0, 0, 2, 2], [1, 0, 3, 2]) == pytest.approx(1 / 3)
    assert overlap([0, 0, 1, 1], [1, 0, 2, 1]) == 0


def test_a_region_as_a_box() -> None:
    assert Region.parse("64,48,320,480").box((640, 480)) == (64, 48, 320, 480)
    assert Region.parse("<loc_100><loc_100><loc_500><loc_999>").box((1000, 100)) == (100.5, 10.05, 500.5, 99.95)
