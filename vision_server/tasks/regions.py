"""Places in a picture: pixels of the upright picture <-> the thousand bins a side that Florence-2 knows.

The arithmetic is the published quantizer's, but answers stay floats. Not here: how an answer is cut into boxes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal

from ..errors import BadInput

BINS = 1000
LOCATION = re.compile(r"<loc_([0-9]+)>")

_FOUR_LOCATIONS = re.compile(r"\s*".join([r"<loc_([0-9]{1,3})>"] * 4))
_MAX_CHARS = 200  # four numbers, generously; no effort is spent on more
_HOW = "send pixels [x1, y1, x2, y2], or four locations from <loc_0> to <loc_999>"


def quantize(value: float, size: int) -> int:
    """The bin, 0 to 999, of a coordinate in pixels on a side of `size` pixels."""
    return min(max(math.floor(value * BINS / size), 0), BINS - 1)


def dequantize(index: int, size: int) -> float:
    """The middle of a bin, in pixels, on a side of `size` pixels."""
    return (index + 0.5) * size / BINS


@dataclass(frozen=True)
class Region:
    """A rectangle as a person gives it: x1, y1, x2, y2 in pixels of the upright picture, or in bins."""

    corners: tuple[float, float, float, float]
    unit: Literal["pixels", "bins"]

    @classmethod
    def parse(cls, given: str | Sequence[float]) -> Region:
        """Reads `<loc_1><loc_2><loc_3><loc_4>`, `[x1, y1, x2, y2]` or, in a form or a query, `x1,y1,x2,y2`.

        Raises BadInput for everything that is wrong whatever the picture's size.
        """
        if isinstance(given, str):
            return cls._parse_text(given.strip())
        if not isinstance(given, list | tuple):
            raise BadInput(f"A region has four numbers: {_HOW}.")
        return cls._of_pixels(given)

    @classmethod
    def _parse_text(cls, text: str) -> Region:
        if found := _FOUR_LOCATIONS.fullmatch(text):
            x1, y1, x2, y2 = (int(index) for index in found.groups())
            if x1 > x2 or y1 > y2:
                raise BadInput("The region is inside out: its first two locations are the left and upper sides.")
            return cls((x1, y1, x2, y2), "bins")
        if len(text) > _MAX_CHARS:
            raise BadInput(f"The region cannot be read: {_HOW}.")
        numbers = text.removeprefix("[").removesuffix("]").split(",")
        try:
            return cls._of_pixels([float(number) for number in numbers])
        except ValueError:
            raise BadInput(f"The region cannot be read: {_HOW}.") from None

    @classmethod
    def _of_pixels(cls, corners: Sequence[float]) -> Region:
        if len(corners) != 4:
            raise BadInput(f"A region has four numbers: {_HOW}.")
        x1, y1, x2, y2 = (_pixel(corner) for corner in corners)
        if not (x1 < x2 and y1 < y2):
            raise BadInput("The region is empty or inside out: x1 must be less than x2, and y1 less than y2.")
        return cls((x1, y1, x2, y2), "pixels")

    def locations(self, size: tuple[int, int]) -> str:
        """The region as four `<loc_n>` on a picture of `size` (width, height). Raises BadInput if it lies outside."""
        x1, y1, x2, y2 = self.corners
        if self.unit == "bins":
            return "".join(f"<loc_{int(index)}>" for index in self.corners)
        width, height = size
        if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
            raise BadInput(
                f"The region reaches outside the picture, which is {width} x {height} pixels as it stands upright: "
                f"x1 and y1 are at least 0, x2 at most {width}, y2 at most {height}."
            )
        bins = (quantize(x1, width), quantize(y1, height), quantize(x2, width), quantize(y2, height))
        return "".join(f"<loc_{index}>" for index in bins)

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The region as x1, y1, x2, y2 in pixels of a picture of `size` (width, height)."""
        if self.unit == "pixels":
            return self.corners
        x1, y1, x2, y2 = (dequantize(int(index), size[place % 2]) for place, index in enumerate(self.corners))
        return x1, y1, x2, y2


def _pixel(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BadInput(f"The region must be made of numbers: {_HOW}.")
    try:
        pixel = float(value)
    except OverflowError:  # an integer beyond any float, and so beyond any picture
        pixel = math.inf
    if not math.isfinite(pixel):
        raise BadInput(f"The region must be made of finite numbers: {_HOW}.")
    return pixel


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2: 0 where they do not meet, 1 where they are the same."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)
