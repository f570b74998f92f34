"""The places in an answer: read, drawn into the picture, and turned into masks.

Answers are those of `POST /process_image`; coordinates are pixels of the picture that was sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .server import VisionServerError

Size = tuple[int, int]  # width, height
Ring = list[tuple[float, float]]

_COLOURS = (
    (230, 60, 60),
    (50, 165, 80),
    (65, 105, 225),
    (245, 150, 40),
    (150, 70, 190),
    (20, 160, 170),
    (235, 70, 190),
)
_MAX_LABEL_CHARS = 200
_FILL_ALPHA = 100  # of 255, for what has an outline
# Where each kind of place stands in an answer, and where its labels do.
_PARTS = (
    ("bboxes", ("bboxes_labels", "labels")),
    ("quad_boxes", ("labels",)),
    ("polygons", ("polygons_labels", "labels")),
)


@dataclass(frozen=True)
class Place:
    """One thing: its label ("" for none) and the closed lines of points around its parts; `outlined` is no box."""

    label: str
    rings: list[Ring]
    outlined: bool


def read(answer: object) -> list[Place]:
    """Boxes, then quads, then polygons. Raises VisionServerError for an answer that has no places, a text for one."""
    if not isinstance(answer, Mapping):
        raise VisionServerError(
            "This prompt is answered with a text, not with places in the picture: use Caption Image for it."
        )
    try:
        return list(_read(answer))
    except (TypeError, ValueError, IndexError, KeyError):
        raise VisionServerError(
            "The places in the server's answer cannot be read: it may be of another version."
        ) from None


def _read(answer: Mapping[str, Any]) -> Iterator[Place]:
    for part, names in _PARTS:
        labels: Sequence[Any] = next((answer[name] for name in names if name in answer), [])
        for where, label in zip(answer.get(part, []), labels, strict=False):
            if part == "bboxes":
                x1, y1, x2, y2 = map(float, where)
                yield Place(str(label), [[(x1, y1), (x2, y1), (x2, y2), (x1, y2)]], outlined=False)
            else:
                rings = [_ring(flat) for flat in (where if part == "polygons" else [where])]
                yield Place(str(label), [ring for ring in rings if len(ring) > 1], outlined=True)


def _ring(flat: Sequence[Any]) -> Ring:
    return [(float(x), float(y)) for x, y in zip(flat[::2], flat[1::2], strict=False)]


def only(places: Sequence[Place], words: str) -> list[Place]:
    """Those whose label holds one of the comma-separated words, whole, in any letter case. No words: all of them.

    What has no label is kept: its prompt names the thing itself.
    """
    wanted = [re.escape(word.strip()) for word in words.split(",") if word.strip()]
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(wanted)})(?!\w)", re.IGNORECASE)
    return [place for place in places if not (wanted and place.label) or pattern.search(place.label)]


def mask(places: Sequence[Place], size: Size) -> Image.Image:
    """L, white in the places: a box with all in it, an outline with what it encloses."""
    painted = Image.new("L", size)
    pen = ImageDraw.Draw(painted)
    for place in places:
        for ring in place.rings:
            _fill(pen, ring, 255, place.outlined)
    return painted


def draw(picture: Image.Image, places: Sequence[Place]) -> Image.Image:
    """A copy of an RGB picture with the places and their labels in it; a colour a label, sizes after the picture's."""
    colours: dict[str, tuple[int, int, int]] = {}
    for place in places:
        colours.setdefault(place.label, _COLOURS[len(colours) % len(_COLOURS)])
    veil = Image.new("RGBA", picture.size)
    pen = ImageDraw.Draw(veil)
    for place in places:
        for ring in place.rings if place.outlined else []:
            _fill(pen, ring, (*colours[place.label], _FILL_ALPHA), outlined=True)
    copy = Image.alpha_composite(picture.convert("RGBA"), veil).convert("RGB")
    pen = ImageDraw.Draw(copy)
    side = max(picture.size)
    for place in places:
        for ring in place.rings:
            pen.line([*ring, *ring[:2]], colours[place.label], max(2, side // 256), "curve")
    font = ImageFont.load_default(max(12, side // 36))
    for place in places:  # the labels last, so that no line crosses them
        if place.label.strip() and place.rings:
            _write(pen, place, colours[place.label], font, picture.size)
    return copy


def _fill(pen: ImageDraw.ImageDraw, ring: Ring, colour: int | tuple[int, int, int, int], outlined: bool) -> None:
    if outlined:
        pen.polygon(ring, colour)
        return
    # A box ends where its corner is, so the pixel there is no longer its own; one that is thinner keeps one pixel.
    (x1, y1), (x2, y2) = ring[0], ring[2]
    left, top = round(x1), round(y1)
    pen.rectangle((left, top, max(left, round(x2) - 1), max(top, round(y2) - 1)), colour)


def _write(
    pen: ImageDraw.ImageDraw,
    place: Place,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: Size,
) -> None:
    """The label on a plate above the place, or in it where the picture has no room above."""
    text = whole = " ".join(place.label.split())[:_MAX_LABEL_CHARS]
    while len(whole) > 1 and pen.textlength(text, font=font) > size[0]:
        whole = whole[:-1]
        text = f"{whole}..."
    _, _, right, bottom = pen.textbbox((0, 0), text, font=font)
    points = [point for ring in place.rings for point in ring]
    x = max(0, min(min(x for x, _ in points), size[0] - right))
    y = min(y for _, y in points)
    y = y - bottom if y >= bottom else y
    pen.rectangle((x, y, x + right, y + bottom), colour)
    pen.text((x, y), text, "white", font=font)
