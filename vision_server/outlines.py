"""How well two outlines agree: both are painted with Pillow and the painted cells counted.

For those who measure answers (the demo, the evaluation), never for the daemon, which has no Pillow.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageChops, ImageDraw

from .tasks.regions import BINS

Ring = Sequence[float]
"""A closed line x, y, x, y, ... in pixels; an odd last number is left out. Two points or fewer enclose nothing."""


def polygon_iou(one: Sequence[Ring], other: Sequence[Ring], size: tuple[int, int]) -> float:
    """Intersection over union of two shapes on a picture of `size` (width, height) pixels: 0 to 1, 0 if both are empty.

    A shape is all that any of its rings encloses, as Florence-2 writes the parts of one object; a quad is a shape of
    one ring. What lies outside the picture does not count. Painted in cells as fine as the bins that answers come in.
    """
    first, second = _painted(one, size), _painted(other, size)
    union = _count(ImageChops.logical_or(first, second))
    return _count(ImageChops.logical_and(first, second)) / union if union else 0.0


def _painted(rings: Sequence[Ring], size: tuple[int, int]) -> Image.Image:
    mask = Image.new("1", (BINS, BINS))
    pen = ImageDraw.Draw(mask)
    for ring in rings:
        points = [(x * BINS / size[0], y * BINS / size[1]) for x, y in zip(ring[::2], ring[1::2], strict=False)]
        if len(points) > 2:
            pen.polygon(points, fill=1)
    return mask


def _count(mask: Image.Image) -> int:
    return mask.histogram()[-1]
