"""Paints a scene with Pillow, in one to three milliseconds at 256 pixels, because training paints millions of them.

Nothing here decides what is to be seen; the small accidents (stripe width, phase, tone) come from the scene's seed.
"""

import functools
import math
import random
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vision_server.training.pictograms import PICTOGRAMS
from vision_server.training.scenes import EDGE, Item, Scene, Sign

Colour = tuple[int, int, int]

PAINTS: Final[dict[str, Colour]] = {
    "red": (214, 32, 36),
    "orange": (246, 128, 20),
    "yellow": (250, 220, 20),
    "green": (24, 138, 52),
    "blue": (28, 76, 206),
    "purple": (132, 36, 160),
    "white": (252, 252, 252),
    "black": (24, 24, 26),
}
TINT_PAINTS: Final[dict[str, Colour]] = {
    "grey": (178, 178, 180),
    "beige": (216, 198, 160),
    "blue": (160, 192, 224),
    "green": (166, 204, 160),
    "pink": (228, 178, 192),
}
_DARK: Final = (36, 34, 40)
_LIGHT: Final = (250, 250, 246)
_DARK_PAINTS: Final = frozenset({"red", "green", "blue", "purple", "black"})
_TEXTURE_SALT: Final = 0x5CE4E  # keeps the painter's chances apart from those that made the scene


def draw(scene: Scene) -> Image.Image:
    """The picture of `scene`: RGB, `size_px` square."""
    rng = random.Random(scene.seed ^ _TEXTURE_SALT)
    picture = _background(scene, rng)
    pen = ImageDraw.Draw(picture)
    for item in scene.items:
        _draw_item(pen, item, scene.size_px, rng)
    if scene.sign is not None:
        _draw_sign(pen, scene.sign, scene.size_px)
    return picture


def _shifted(colour: Colour, by: int) -> Colour:
    return (
        min(255, max(0, colour[0] + by)),
        min(255, max(0, colour[1] + by)),
        min(255, max(0, colour[2] + by)),
    )


def _background(scene: Scene, rng: random.Random) -> Image.Image:
    texture, tint = scene.background.split()
    size = scene.size_px
    base = _shifted(TINT_PAINTS[tint], rng.randint(-7, 7))
    other = _shifted(base, rng.choice((-1, 1)) * rng.randint(18, 26))
    period = size * rng.uniform(0.07, 0.13)
    phase = rng.uniform(0, period)
    if texture == "shaded":
        return _shaded(size, base, rng)
    picture = Image.new("RGB", (size, size), base)
    pen = ImageDraw.Draw(picture)
    steps = range(-1, int(size / period) + 2)
    if texture == "striped":
        slope = rng.choice((-1.0, -0.5, 0.0, 0.5, 1.0)) * size
        upright = rng.random() < 0.5
        for step in range(-int(size / period) - 2, 2 * int(size / period) + 3):
            at = step * period + phase
            corners = [(at, 0), (at + period / 2, 0), (at + period / 2 + slope, size), (at + slope, size)]
            pen.polygon(corners if upright else [(y, x) for x, y in corners], fill=other)
    elif texture == "checked":
        for row in steps:
            for column in steps:
                if (row + column) % 2:
                    x, y = column * period + phase, row * period + phase
                    pen.rectangle((x, y, x + period, y + period), fill=other)
    elif texture == "dotted":
        radius = period * 0.3
        for row in steps:
            for column in steps:
                x, y = (column + 0.5 * (row % 2)) * period + phase, row * period + phase
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=other)
    elif texture == "wavy":
        width = max(1, round(period * 0.35))
        rise, length = period * 0.4, size * rng.uniform(0.15, 0.3)
        places = [size * step / 32 for step in range(33)]
        wave = [rise * math.sin(2 * math.pi * (place + phase) / length) for place in places]
        for step in steps:
            pen.line([(x, y + step * period + phase) for x, y in zip(places, wave, strict=True)], other, width)
    return picture


def _shaded(size: int, base: Colour, rng: random.Random) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((size, size)).rotate(rng.choice((0, 90, 180, 270)))
    depth = rng.randint(26, 34)
    return Image.composite(
        Image.new("RGB", (size, size), _shifted(base, depth)),
        Image.new("RGB", (size, size), _shifted(base, -depth)),
        ramp,
    )


def _draw_item(pen: ImageDraw.ImageDraw, item: Item, size_px: int, rng: random.Random) -> None:
    pictogram = PICTOGRAMS[item.kind]
    paint = _shifted(PAINTS[item.colour], rng.randint(-8, 8))
    edge = _LIGHT if item.colour == "black" else _DARK
    mark = _LIGHT if item.colour in _DARK_PAINTS else _DARK
    width = max(1, round(2 * EDGE * size_px))
    bodies = [_placed(points, item) for points in pictogram.body]
    # All edges first: where two shapes of one body meet, the second one's fill covers the seam.
    for points in bodies:
        pen.line([*points, *points[:4]], fill=edge, width=width)
    for points in bodies:
        pen.polygon(points, fill=paint)
    for shape in pictogram.marks:
        points = _placed(shape, item)
        pen.polygon(points, fill=mark)


def _placed(points: NDArray[np.float64], item: Item) -> list[float]:
    """The points as x, y, x, y, ... in pixels."""
    a, b, c, d, e, f = item.transform
    placed = np.empty_like(points)
    placed[:, 0] = points[:, 0] * a + points[:, 1] * b + c
    placed[:, 1] = points[:, 0] * d + points[:, 1] * e + f
    flat: list[float] = placed.ravel().tolist()
    return flat


@functools.lru_cache(maxsize=256)
def _font(half_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=half_px / 2)


def _draw_sign(pen: ImageDraw.ImageDraw, sign: Sign, size_px: int) -> None:
    pen.polygon(sign.quad, fill=PAINTS[sign.colour], outline=_DARK, width=max(1, round(2 * EDGE * size_px)))
    font = _font(round(2 * sign.font_px))
    # At no more than three degrees, upright letters on a slanting line look the same as turned ones.
    for letter, (x, y) in zip(sign.text, sign.letter_centres(), strict=True):
        baseline = y + 0.36 * sign.font_px
        pen.text((x, baseline), letter, fill=_DARK, font=font, anchor="ms")
        pen.text((x + size_px / 256, baseline), letter, fill=_DARK, font=font, anchor="ms")  # a bolder stroke
