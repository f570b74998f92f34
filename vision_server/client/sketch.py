"""Answers drawn into copies of their pictures, for a person to look at: boxes, quads, polygons, labels.

On the client's side only: the daemon has no Pillow. The picture is read as the worker reads it, so that what is drawn
lies where the model saw it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..tasks import Shape, shapes
from ..tasks.regions import Region
from ..worker.decode import decode
from .names import safe

MAX_PIXELS = 268_000_000  # the most that a server can be told to take
_COLOURS = (
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#ffe119",
    "#f58231",
    "#911eb4",
    "#42d4f4",
    "#f032e6",
    "#bfef45",
    "#9a6324",
)
_FILL_ALPHA = 112  # of 255
_LIGHT = 140  # a colour of more luma than this, of 255, takes dark letters

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Box = tuple[float, float, float, float]
Result = str | Mapping[str, Any]
AskedRegion = str | Sequence[float] | None


def open_upright(data: bytes) -> Image.Image:
    """A picture's file as upright RGB. Raises BadImage, ImageRefused, TooLarge, OutOfMemory."""
    return decode(data, MAX_PIXELS).image


def draw_answer(picture: Image.Image, result: Result, region: AskedRegion = None) -> Image.Image | None:
    """A copy of an RGB picture with the places of an answer in it, and the region that was asked about, if one was.

    `region` is as the API takes it, and carries the answer where that is a text. None where there is nothing to draw.
    Raises BadInput for a region that is none.
    """
    found = shapes(result)
    if region:
        label = result if isinstance(result, str) else ""
        found = [Shape("box", label, [list(Region.parse(region).box(picture.size))]), *found]
    return sketch(picture, found) if found else None


def sketch(picture: Image.Image, drawn: Sequence[Shape]) -> Image.Image:
    """A copy of an RGB picture with the shapes in it; one colour a label, lines and letters sized to the picture."""
    side = max(picture.size)
    line_px = max(2, round(side / 256))
    colours: dict[str, str] = {}
    for shape in drawn:
        colours.setdefault(shape.label, _COLOURS[len(colours) % len(_COLOURS)])
    copy = _filled(picture, drawn, colours)
    pen = ImageDraw.Draw(copy)
    for shape in drawn:
        for points in _lines(shape):
            closed, colour = [*points, *points[:2]], colours[shape.label]
            pen.line(closed, fill=_contrast(colour), width=line_px + 2, joint="curve")
            pen.line(closed, fill=colour, width=line_px, joint="curve")
    font = ImageFont.load_default(max(12, side / 36))
    taken: list[Box] = []
    for shape in drawn:  # the labels last, so that no line crosses them
        if shape.label.strip():
            taken.append(_label(pen, shape, colours[shape.label], font, copy.size, taken))
    return copy


def save(picture: Image.Image, folder: Path, name: str) -> Path:
    """As PNG in `folder`, which is made where it is missing, under `name` or `name-2`, ...: no file is replaced.

    Returns its path. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = safe(name)
    for number in itertools.count(1):
        path = folder / f"{stem}{'' if number == 1 else f'-{number}'}.png"
        try:
            file = path.open("xb")
        except FileExistsError:
            continue
        try:
            with file:
                picture.save(file, "PNG")
        except BaseException:
            path.unlink()
            raise
        return path
    raise AssertionError("there are endlessly many numbers")


def _filled(picture: Image.Image, drawn: Sequence[Shape], colours: dict[str, str]) -> Image.Image:
    veil = Image.new("RGBA", picture.size)
    pen = ImageDraw.Draw(veil)
    for shape in drawn:
        if shape.kind == "polygon":
            red, green, blue = _rgb(colours[shape.label])
            for points in _lines(shape):
                pen.polygon(points, fill=(red, green, blue, _FILL_ALPHA))
    return Image.alpha_composite(picture.convert("RGBA"), veil).convert("RGB")


def _lines(shape: Shape) -> list[list[float]]:
    """Its closed lines, x, y, x, y, ...; those of fewer than two points cannot be drawn and are left out."""
    if shape.kind == "box":
        left, top, right, bottom = shape.bounds
        return [[left, top, right, top, right, bottom, left, bottom]]
    return [list(ring[: len(ring) // 2 * 2]) for ring in shape.rings if len(ring) > 3]


def _label(
    pen: ImageDraw.ImageDraw, shape: Shape, colour: str, font: Font, size: tuple[int, int], taken: Sequence[Box]
) -> Box:
    """The label on a plate of its colour, above the shape if there is room, else below or in it. Where it lies now."""
    text = _cut(pen, " ".join(shape.label.split()), font, size[0])
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    margin = (bottom - top) / 5
    wide, high = right - left + 2 * margin, bottom - top + 2 * margin
    x1, y1, x2, y2 = shape.bounds
    corners = [(x1, y1 - high), (x1, y2), (x1, y1), (x2 - wide, y2 - high), (x2 - wide, y1 - high), (x2, y1)]
    plates = [_inside((x, y, x + wide, y + high), size) for x, y in corners]
    plate = next((plate for plate in plates if not any(_meet(plate, other) for other in taken)), plates[0])
    pen.rectangle(plate, fill=colour)
    pen.text((plate[0] + margin - left, plate[1] + margin - top), text, fill=_contrast(colour), font=font)
    return plate


def _cut(pen: ImageDraw.ImageDraw, text: str, font: Font, wide: int) -> str:
    """No wider than `wide` pixels, nearly."""
    room = wide * 0.9
    if pen.textlength(text, font=font) <= room:
        return text
    text = text[:200]
    while len(text) > 1 and pen.textlength(text + "...", font=font) > room:
        text = text[:-1]
    return text + "..."


def _inside(plate: Box, size: tuple[int, int]) -> Box:
    """Moved into the picture."""
    x1, y1, x2, y2 = plate
    left, top = max(min(x1, size[0] - (x2 - x1)), 0), max(min(y1, size[1] - (y2 - y1)), 0)
    return left, top, left + x2 - x1, top + y2 - y1


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def _contrast(colour: str) -> str:
    red, green, blue = _rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > _LIGHT else "white"
