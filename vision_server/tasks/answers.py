"""Generated text -> answer: a string, or boxes, quads and polygons in pixels of the upright picture.

One pass over the text finds runs of location tokens and the label in front of each; what a run means, the task decides.
This reads what the published post-processors (Microsoft's, transformers') read, without their faults: labels keep their
newlines and all their letters, coordinates stay floats, no `<s>`, `</s>` or `<pad>` is left in a text, a label is never
made up from a piece of a token, and one answer may hold boxes beside polygons.

Any string is answered, garbage too, in time linear in its length. Not here: PromptGen's fields (`fields`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from .regions import BINS, dequantize
from .registry import find

# The longest position table in use has 4,096 rows, and the tokens of an answer with places are far shorter than 16
# characters. This bounds the time that a text no model can have written may take.
_MAX_CHARS = 4096 * 16

_TOKEN = re.compile(
    r"<loc_(?P<bin>[0-9]+)>|(?P<mark><sep>|</?poly>)"
    r"|</?(?:od|ocr|cap|ncap|dcap|grounding|seg|region_cap|region_to_desciption|proposal)>|<and>"
)

Size = tuple[int, int]
Item = int | str  # a bin, 0 to 999, or one of the marks <sep> <poly> </poly>


class _Run(NamedTuple):
    """Locations and polygon marks that follow each other without a gap, and the text in front of them, unstripped."""

    label: str
    items: list[Item]


def answer(token: str, generated_text: str, size: Size, banned: Collection[str] = ()) -> str | dict[str, Any]:
    """What the model wrote for the task `token`, on an upright picture of `size` (width, height) pixels.

    The answer kind of the task decides:

    - text: str
    - boxes, proposals: {"bboxes": [[x1, y1, x2, y2], ...], "labels": [str, ...]}; the labels of proposals are ""
    - quads: {"quad_boxes": [[x1, y1, ..., x4, y4], ...], "labels": [...]}
    - polygons: {"polygons": [[[x, y, x, y, ...], ...rings], ...objects], "labels": ["", ...]}
    - boxes_or_polygons: {"bboxes", "bboxes_labels", "polygons", "polygons_labels"}

    Coordinates are floats in pixels. A token that is no row of the registry is answered with text. `banned` are phrases
    that grounding leaves out; a checkpoint may bring such a list, none is built in. Never raises.
    """
    task = find(token)
    if task is None or task.answer == "text":
        return clean(generated_text)
    runs = _scan(_unmarked(generated_text[:_MAX_CHARS]))
    if task.answer == "quads":
        return _quads(runs, size)
    if task.answer == "polygons":
        return _polygons(runs, size)
    if task.answer == "boxes_or_polygons":
        return _boxes_or_polygons(runs, size)
    if task.answer == "proposals":
        return _proposals(runs, size)
    return _boxes(runs, size, banned if task.token == "<CAPTION_TO_PHRASE_GROUNDING>" else ())


def clean(generated_text: str) -> str:
    """The text without the marks of beginning, end and padding, and without white space around it."""
    return _unmarked(generated_text).strip()


def _unmarked(text: str) -> str:
    return text.replace("<s>", "").replace("</s>", "").replace("<pad>", "")


def _boxes(runs: Iterable[_Run], size: Size, banned: Collection[str]) -> dict[str, Any]:
    boxes: list[list[float]] = []
    labels: list[str] = []
    for label, items in runs:
        if label and label.strip() not in banned:
            found = _rectangles(_leading(items), size)
            boxes += found
            labels += [label.strip()] * len(found)
    return {"bboxes": boxes, "labels": labels}


def _proposals(runs: Iterable[_Run], size: Size) -> dict[str, Any]:
    boxes = [box for run in runs for bins in _stretches(run.items) for box in _rectangles(bins, size)]
    return {"bboxes": boxes, "labels": [""] * len(boxes)}


def _quads(runs: Iterable[_Run], size: Size) -> dict[str, Any]:
    # One quad a label: what follows the eighth location has no text of its own.
    found = [(run.label.strip(), _leading(run.items)[:8]) for run in runs if run.label]
    whole = [(label, bins) for label, bins in found if len(bins) == 8]
    return {"quad_boxes": [_in_pixels(bins, size) for _, bins in whole], "labels": [label for label, _ in whole]}


def _polygons(runs: Iterable[_Run], size: Size) -> dict[str, Any]:
    objects = [rings for run in runs for rings in _objects(run.items, size)]
    return {"polygons": objects, "labels": [""] * len(objects)}


def _boxes_or_polygons(runs: Iterable[_Run], size: Size) -> dict[str, Any]:
    boxes: list[_Run] = []
    polygons: list[list[list[float]]] = []
    labels: list[str] = []
    for run in runs:
        if "<poly>" not in run.items:
            boxes.append(run)
        elif run.label:
            found = list(_objects(run.items, size))
            polygons += found
            labels += [run.label.strip()] * len(found)
    located = _boxes(boxes, size, ())
    return {
        "bboxes": located["bboxes"],
        "bboxes_labels": located["labels"],
        "polygons": polygons,
        "polygons_labels": labels,
    }


def _scan(text: str) -> Iterator[_Run]:
    items: list[Item] = []
    label, end = "", 0
    for match in _TOKEN.finditer(text):
        belongs = match.lastgroup is not None  # the other tokens are structure that no answer is read from
        if items and not (belongs and match.start() == end):
            yield _Run(label, items)
            items = []
        if belongs:
            if not items:
                label = text[end : match.start()]
            items.append(match["mark"] or _bin(match["bin"]))
        end = match.end()
    if items:
        yield _Run(label, items)


def _bin(digits: str) -> int:
    # A model may spell a number that is no location token; the last bin keeps its box inside the picture.
    digits = digits.lstrip("0")
    return BINS - 1 if len(digits) > 3 else int(digits or "0")


def _leading(items: list[Item]) -> list[int]:
    """The bins up to the first mark."""
    return next(_stretches(items), []) if isinstance(items[0], int) else []


def _stretches(items: list[Item]) -> Iterator[list[int]]:
    """The bins between marks, one stretch at a time."""
    stretch: list[int] = []
    for item in [*items, "<sep>"]:
        if isinstance(item, int):
            stretch.append(item)
        elif stretch:
            yield stretch
            stretch = []


def _rectangles(bins: list[int], size: Size) -> list[list[float]]:
    return [_in_pixels(bins[start : start + 4], size) for start in range(0, len(bins) - 3, 4)]


def _objects(items: list[Item], size: Size) -> Iterator[list[list[float]]]:
    """The objects in a run, each a list of rings: what stands between `<poly>` and `</poly>`, or the whole run.

    As published: a run of fewer than four tokens is no object, and of several objects one cut short is dropped.
    """
    if len(items) < 4:
        return
    bodies = list(_enclosed(items)) if "<poly>" in items and "</poly>" in items else [items]
    for body in bodies:
        if rings := [_in_pixels(ring, size) for ring in _rings(body)]:
            yield rings


def _enclosed(items: list[Item]) -> Iterator[list[Item]]:
    start = None
    for place, item in enumerate(items):
        if item == "<poly>" and start is None:
            start = place + 1
        elif item == "</poly>" and start is not None:
            yield items[start:place]
            start = None


def _rings(body: list[Item]) -> Iterator[list[int]]:
    """Bins up to a `<sep>` or the end, in pairs; an odd last one is dropped."""
    ring: list[int] = []
    for item in [*body, "<sep>"]:
        if isinstance(item, int):
            ring.append(item)
        else:
            if item == "<sep>" and len(ring) > 1:
                yield ring[: len(ring) // 2 * 2]
            ring = []


def _in_pixels(bins: list[int], size: Size) -> list[float]:
    return [dequantize(index, size[place % 2]) for place, index in enumerate(bins)]
