"""The places in an answer, one after the other, whatever their kind: for those who draw, print or compare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["box", "quad", "polygon"]

# The keys of an answer: where the places stand, where their labels, and what they are.
_PARTS: tuple[tuple[str, tuple[str, ...], Kind], ...] = (
    ("bboxes", ("bboxes_labels", "labels"), "box"),
    ("quad_boxes", ("labels",), "quad"),
    ("polygons", ("polygons_labels", "labels"), "polygon"),
)


@dataclass(frozen=True)
class Shape:
    """One labelled place, in pixels of the upright picture.

    `rings` are x, y, x, y, ...: for a box one of two corners (x1, y1, x2, y2), for a quad one of four, for a polygon
    one for each part of the object. `label` is "" where the answer names nothing.
    """

    kind: Kind
    label: str
    rings: list[list[float]]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the upright rectangle around it; zeros where it has no points."""
        xs = [x for ring in self.rings for x in ring[::2]] or [0.0]
        ys = [y for ring in self.rings for y in ring[1::2]] or [0.0]
        return min(xs), min(ys), max(xs), max(ys)


def shapes(result: str | Mapping[str, Any]) -> list[Shape]:
    """What an answer (see `answer`) places in its picture: boxes, then quads, then polygons. Of a text nothing."""
    found: list[Shape] = []
    if isinstance(result, str):
        return found
    for places, names, kind in _PARTS:
        labels: list[str] = next((result[name] for name in names if name in result), [])
        for place, label in zip(result.get(places, []), labels, strict=False):
            found.append(Shape(kind, label, place if kind == "polygon" else [place]))
    return found
