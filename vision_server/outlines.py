"""How well places in a picture agree: boxes by their sides, outlines by painting both and counting the painted cells.

For those who measure answers (the demo, the evaluation), never for the daemon, which has no Pillow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageChops, ImageDraw

from .tasks import Shape, shapes
from .tasks.regions import BINS, overlap

# Intersection over union: what detection benchmarks count at the least; an outline has to fit better than its box.
RIGHT_BOX_OVERLAP, RIGHT_OUTLINE_OVERLAP = 0.5, 0.6

Ring = Sequence[float]
"""A closed line x, y, x, y, ... in pixels; an odd last number is left out. Two points or fewer enclose nothing."""


def agrees(result: str | Mapping[str, Any], truth: str | Mapping[str, Any], size: tuple[int, int]) -> bool:
    """Whether an answer on a picture of `size` is right: a text to the letter, places in any order.

    Each true place must be met by one of the same label and kind that overlaps it enough, and none may be left over.
    """
    if isinstance(result, str) or isinstance(truth, str):
        return result == truth
    said, true = shapes(result), shapes(truth)
    pairs = _matched(said, true, size)
    return len(pairs) == len(said) == len(true) and all(
        share >= (RIGHT_BOX_OVERLAP if one.kind == "box" else RIGHT_OUTLINE_OVERLAP) for share, one in pairs
    )


def mean_iou(result: Mapping[str, Any], truth: Mapping[str, Any], size: tuple[int, int]) -> float:
    """The mean overlap of an answer's places with the true ones: 0 to 1, 1 where there are none and none are named.

    Pairs have one label and kind, the best first. A place that is missing, and one too many, counts as 0.
    """
    said, true = shapes(result), shapes(truth)
    wanted = max(len(said), len(true))
    return sum(share for share, _ in _matched(said, true, size)) / wanted if wanted else 1.0


def _matched(said: Sequence[Shape], true: Sequence[Shape], size: tuple[int, int]) -> list[tuple[float, Shape]]:
    """The overlap of each pair and its true place, each place in one pair; what does not meet at all is no pair."""
    pairs = [(_overlap(one, other, size), i, j) for i, one in enumerate(said) for j, other in enumerate(true)]
    met: set[int] = set()
    used: set[int] = set()
    found = []
    for share, i, j in sorted(pairs, reverse=True):
        if share > 0 and i not in used and j not in met:
            used.add(i)
            met.add(j)
            found.append((share, true[j]))
    return found


def polygon_iou(one: Sequence[Ring], other: Sequence[Ring], size: tuple[int, int]) -> float:
    """Intersection over union of two shapes on a picture of `size` (width, height) pixels: 0 to 1, 0 if both are empty.

    A shape is all that any of its rings encloses, as Florence-2 writes the parts of one object; a quad is a shape of
    one ring. What lies outside the picture does not count. Painted in cells as fine as the bins that answers come in.
    """
    first, second = _painted(one, size), _painted(other, size)
    union = _count(ImageChops.logical_or(first, second))
    return _count(ImageChops.logical_and(first, second)) / union if union else 0.0


def _overlap(said: Shape, true: Shape, size: tuple[int, int]) -> float:
    if (said.label, said.kind) != (true.label, true.kind):
        return 0.0
    if true.kind == "box":
        return overlap(said.rings[0], true.rings[0])
    return polygon_iou(said.rings, true.rings, size)


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
