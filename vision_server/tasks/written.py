"""An answer -> the text that a model would generate for it: what `answers` reads, written with the same bins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from ..errors import BadInput
from .answers import clean
from .regions import quantize
from .shapes import Shape, shapes

Size = tuple[int, int]

_PLACES = ("bboxes", "quad_boxes", "polygons")


def written(result: str | Mapping[str, Any], size: Size) -> str:
    """The text that `answer` reads `result` from, on an upright picture of `size` pixels.

    `result` has the forms that `answer` returns; coordinates are pixels, and what follows each other with one label
    stands behind it once. Raises BadInput for another form, and for coordinates outside the picture.
    """
    if isinstance(result, str):
        return clean(result)
    _check_form(result)
    found = shapes(result)
    for shape in found:
        _check(shape, size)
    marked = "bboxes_labels" in result  # where boxes may stand beside outlines
    text = ""
    for (label, kind), same in groupby(found, key=lambda shape: (shape.label, shape.kind)):
        parts = ["<sep>".join(locations(ring, size) for ring in shape.rings) for shape in same]
        if kind == "quad":  # one follows each label, since that is all that is read
            text += "".join(label + part for part in parts)
        elif kind == "polygon" and (marked or len(parts) > 1):
            text += label + "".join(f"<poly>{part}</poly>" for part in parts)
        else:
            text += label + "".join(parts)
    return text


def locations(ring: Sequence[float], size: Size) -> str:
    """x, y, x, y, ... in pixels as `<loc_n>` tokens."""
    return "".join(f"<loc_{quantize(value, size[place % 2])}>" for place, value in enumerate(ring))


def _check_form(result: Mapping[str, Any]) -> None:
    if not any(name in result for name in _PLACES):
        raise BadInput(f"An answer is a text, or an object with {', '.join(_PLACES)}.")
    for name, labels in (("bboxes", ("bboxes_labels", "labels")), ("quad_boxes", ("labels",)), ("polygons", None)):
        places = result.get(name, [])
        if not isinstance(places, list):
            raise BadInput(f"{name} is not a list.")
        keys = labels or ("polygons_labels", "labels")
        named: Any = next((result[key] for key in keys if key in result), None)
        if places and (not isinstance(named, list) or len(named) != len(places)):
            raise BadInput(f"{name} has {len(places)} places, and not as many labels.")
        if not all(isinstance(one, str) for one in named or []):
            raise BadInput(f"The labels of {name} are not all texts.")


def _check(shape: Shape, size: Size) -> None:
    rings = shape.rings
    if not isinstance(rings, list) or not all(isinstance(ring, list) and ring for ring in rings):
        raise BadInput(f"A {shape.kind} is not a list of numbers.")
    for ring in rings:
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in ring):
            raise BadInput(f"A {shape.kind} is not made of numbers.")
        wanted = {"box": 4, "quad": 8}.get(shape.kind)
        if len(ring) % 2 or (wanted and len(ring) != wanted) or (wanted is None and len(ring) < 6):
            raise BadInput(f"A {shape.kind} has {wanted or 'six or more'} numbers, in pairs; this one has {len(ring)}.")
        if not all(0 <= value <= size[place % 2] for place, value in enumerate(ring)):
            raise BadInput(
                f"A {shape.kind} reaches outside the picture, which is {size[0]} x {size[1]} pixels when upright: "
                f"{', '.join(f'{value:g}' for value in ring[:8])}."
            )
        if shape.kind == "box" and not (ring[0] < ring[2] and ring[1] < ring[3]):
            raise BadInput(f"A box is empty or inside out: {', '.join(f'{value:g}' for value in ring)}.")
