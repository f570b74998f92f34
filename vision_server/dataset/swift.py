"""ms-swift's grounding form: texts with `<ref-object>` and `<bbox>`, and the objects that belong there.

Both ways in which its versions write them: a list (or its JSON) of `{"caption", "bbox", "bbox_type"}`, and an object of
lists `{"ref", "bbox", "bbox_type"}`. The first `<bbox>` of a text is the first box's, and so on, with the names alike;
where the boxes are objects', question and answer count each for itself, and where they are lists, on and on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vision_server.dataset.examples import Size
from vision_server.errors import BadInput
from vision_server.tasks.regions import BINS
from vision_server.tasks.written import locations

PLACEHOLDER = re.compile(r"<ref-object>|<bbox>")
_SIDES = {"real": 0, "norm_1000": BINS, "norm1000": BINS, "norm_1": 1, "norm1": 1}  # what a side is; 0: its pixels


@dataclass(frozen=True)
class Objects:
    """`boxes` are x1, y1, x2, y2 (or points x, y), or several of them for one object, each measured as `kinds` says."""

    names: tuple[str, ...]
    boxes: tuple[Any, ...]
    kinds: tuple[str, ...]
    run_on: bool  # the answer's placeholders go on where the question's ended


def read_objects(given: Any) -> Objects:
    """Raises BadInput for what is neither form."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            raise BadInput("objects is a text that is no JSON.") from None
    if isinstance(given, dict):
        names, boxes = given.get("ref") or [], given.get("bbox") or []
        if not isinstance(names, list) or not isinstance(boxes, list) or not all(isinstance(x, str) for x in names):
            raise BadInput("objects has ref and bbox, which are lists: names, and boxes.")
        return Objects(tuple(names), tuple(boxes), (_kind(given.get("bbox_type")),) * len(boxes), run_on=True)
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise BadInput("objects is a list of objects with caption and bbox, or one object with ref and bbox.")
    names = [one.get("caption", "") for one in given]
    if not all(isinstance(name, str) for name in names):
        raise BadInput("The captions of objects are texts.")
    kinds = tuple(_kind(one.get("bbox_type")) for one in given)
    return Objects(tuple(names), tuple(one.get("bbox") for one in given), kinds, run_on=False)


def _kind(given: Any) -> str:
    kind = "real" if given is None else given
    if kind not in _SIDES:
        raise BadInput(f"bbox_type {str(given)[:40]} is not known: real, norm_1000 or norm_1.")
    return str(kind)


def fill(question: str, answer: str, objects: Objects, size: Size) -> tuple[str, str]:
    """Both with their placeholders filled. Raises BadInput for a box outside, and where the objects do not suffice."""
    names, boxes = iter(objects.names), _written(objects, size)
    question = _filled(question, names, boxes)
    if not objects.run_on:
        names, boxes = iter(objects.names), _written(objects, size)
    return question, _filled(answer, names, boxes)


def _filled(text: str, names: Iterator[str], boxes: Iterator[str]) -> str:
    def one(match: re.Match[str]) -> str:
        try:
            return next(names if match[0] == "<ref-object>" else boxes)
        except StopIteration:
            raise BadInput(f"There are more {match[0]} than objects.") from None

    return PLACEHOLDER.sub(one, text)


def _written(objects: Objects, size: Size) -> Iterator[str]:
    for box, kind in zip(objects.boxes, objects.kinds, strict=True):
        several = box if isinstance(box, list) and box and isinstance(box[0], list) else [box]
        side = _SIDES[kind]
        measure = (side, side) if side else size
        yield "".join(locations(_checked(one, measure), measure) for one in several)


def _checked(box: Any, size: Size) -> Sequence[float]:
    numbers = isinstance(box, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in box)
    if not numbers or len(box) not in (2, 4):
        raise BadInput("A bbox is four numbers x1, y1, x2, y2, or two of a point.")
    shown = ", ".join(f"{value:g}" for value in box)
    if not all(0 <= value <= size[place % 2] for place, value in enumerate(box)):
        raise BadInput(f"The bbox {shown} reaches outside the picture, which is {size[0]} x {size[1]} in its measure.")
    if len(box) == 4 and not (box[0] < box[2] and box[1] < box[3]):
        raise BadInput(f"The bbox {shown} is empty or inside out.")
    return list(box)
