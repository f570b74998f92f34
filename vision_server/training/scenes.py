"""Scenes made by chance from a seed: which things, in which colour and size, where, on what, with which sign.

A scene is only the description, exact to the pixel; `drawing` paints it and `truth` says what is to be seen in it. The
same seed gives the same scene at every picture size. Placement keeps every answer unambiguous: boxes do not overlap,
centres are apart enough for one left-to-right order and off the lines between the thirds, and sizes leave a gap between
small and large.
"""

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vision_server.training.pictograms import KINDS, PICTOGRAMS
from vision_server.training.words import WORDS

COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
TINTS: Final = ("grey", "beige", "blue", "green", "pink")
TEXTURES: Final = ("plain", "striped", "checked", "dotted", "wavy", "shaded")
BACKGROUNDS: Final[tuple[str, ...]] = tuple(f"{texture} {tint}" for texture in TEXTURES for tint in TINTS)
SIGN_COLOURS: Final = ("white", "yellow")

TRAIN_SEEDS: Final = range(0, 10_000_000)
EVAL_SEEDS: Final = range(10_000_000, 11_000_000)

SMALL: Final = (0.17, 0.21)  # square root of the box's share of the picture
LARGE: Final = (0.26, 0.40)
EDGE: Final = 1 / 256  # how far the painted edge reaches beyond an item's points
GAP: Final = 0.015  # between two boxes, and between a box and the picture's edge, as a share of the side
ORDER_GAP: Final = 0.05  # between the centres' x
THIRDS_GAP: Final = 0.015  # between a centre and the lines at one and two thirds
SIGN_SHARE: Final = 1 / 3
WORD_SHARE: Final = 0.7

_LARGEST: Final = {1: 0.40, 2: 0.38, 3: 0.35, 4: 0.31, 5: 0.29}
_LONGEST_SIDE: Final = 0.48
_LETTER_PITCH: Final = 0.9  # distance of two letters' centres, in font sizes: the widest letter, W, just fits
_SIGN_MARGIN: Final = 0.4  # left and right of the letters, in pitches
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Box = tuple[float, float, float, float]
Matrix = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Item:
    """One pictogram. Pixels of the picture, x to the right and y down.

    `box` is tight around what is painted; `polygon` goes once around it (at most 16 points). `transform` (a, b, c, d,
    e, f) takes a point (u, v) of the pictogram's grid to (a*u + b*v + c, d*u + e*v + f).
    """

    kind: str
    colour: str
    size: str
    box: Box
    polygon: tuple[tuple[float, float], ...]
    transform: Matrix


@dataclass(frozen=True)
class Sign:
    """A board with letters. `quad` is its four corners in pixels, clockwise from the top left; `box` is around them."""

    text: str
    box: Box
    quad: tuple[float, float, float, float, float, float, float, float]
    colour: str

    @property
    def font_px(self) -> float:
        x1, y1, x2, y2 = self.quad[:4]
        return math.hypot(x2 - x1, y2 - y1) / ((len(self.text) + 2 * _SIGN_MARGIN) * _LETTER_PITCH)

    def letter_centres(self) -> list[tuple[float, float]]:
        """The middle of every letter of `text`, in pixels."""
        x1, y1, x2, y2, _, _, x4, y4 = self.quad
        count = len(self.text)
        shares = ((_SIGN_MARGIN + 0.5 + place) / (count + 2 * _SIGN_MARGIN) for place in range(count))
        return [
            ((x2 + x4) / 2 + (x2 - x1) * (share - 0.5), (y2 + y4) / 2 + (y2 - y1) * (share - 0.5)) for share in shares
        ]


@dataclass(frozen=True)
class Scene:
    """What a picture shows: one to five items from left to right by their boxes' centres, perhaps a sign, a background.

    `background` is one of BACKGROUNDS; `seed` also fixes the small accidents of painting, such as the stripes' width.
    """

    size_px: int
    background: str
    items: tuple[Item, ...]
    sign: Sign | None
    seed: int


@dataclass(frozen=True)
class _Shape:
    """A pictogram scaled and turned, not yet placed: shares of the picture's side, its box beginning at (0, 0)."""

    matrix: Matrix
    width: float
    height: float


def scene(seed: int, size_px: int = 256, kinds: Sequence[str] = KINDS) -> Scene:
    """The scene of this seed; the same for every call, and in shares of the side the same for every `size_px`.

    Each thing is one of `kinds`, all of them as likely; one that stands there twice is twice as likely.
    """
    rng = random.Random(seed)
    texture = "plain" if rng.random() < 0.5 else rng.choice(TEXTURES[1:])
    background = f"{texture} {rng.choice(TINTS)}"
    wanted = [(rng.choice(kinds), rng.choice(COLOURS)) for _ in range(rng.randint(1, 5))]
    text = _sign_text(rng) if rng.random() < SIGN_SHARE else None
    sign_colour = rng.choice(SIGN_COLOURS)
    sign, items = _placed(rng, wanted, text, sign_colour)
    scaled = sorted((_scaled_item(item, size_px) for item in items), key=lambda item: item.box[0] + item.box[2])
    return Scene(size_px, background, tuple(scaled), sign and _scaled_sign(sign, size_px), seed)


def _placed(
    rng: random.Random, wanted: list[tuple[str, str]], text: str | None, sign_colour: str
) -> tuple[Sign | None, list[Item]]:
    """Sign and items in shares of the side, tried anew until there is room for everything."""
    for attempt in itertools.count():
        # Every failed attempt makes large items rarer, so that a crowded scene is found in the end.
        large_share = max(0.05, (0.5 if len(wanted) < 4 else 0.35) * 0.9**attempt)
        sign = None if text is None else _place_sign(rng, text, sign_colour)
        items = _place_items(rng, wanted, large_share, sign)
        if items is not None:
            return sign, items
    raise AssertionError("unreachable: the count never ends")


def _sign_text(rng: random.Random) -> str:
    if rng.random() < WORD_SHARE:
        return rng.choice(WORDS)
    return "".join(rng.choices(_LETTERS, k=rng.randint(3, 6)))


def _place_sign(rng: random.Random, text: str, colour: str) -> Sign:
    while True:
        font = rng.uniform(0.118, 0.150 - 0.006 * (len(text) - 3))
        width = font * _LETTER_PITCH * (len(text) + 2 * _SIGN_MARGIN)
        height = font * rng.uniform(1.45, 1.65)
        angle = math.radians(rng.uniform(-3, 3))
        across = (width / 2 * math.cos(angle), width / 2 * math.sin(angle))
        down = (-height / 2 * math.sin(angle), height / 2 * math.cos(angle))
        reach_x, reach_y = abs(across[0]) + abs(down[0]) + GAP, abs(across[1]) + abs(down[1]) + GAP
        x, y = rng.uniform(reach_x, 1 - reach_x), rng.uniform(reach_y, 1 - reach_y)
        if _near_thirds(x) or _near_thirds(y):
            continue
        corners = [(x + i * across[0] + j * down[0], y + i * across[1] + j * down[1]) for i, j in _CORNERS]
        xs, ys = [corner[0] for corner in corners], [corner[1] for corner in corners]
        (x1, y1), (x2, y2), (x3, y3), (x4, y4) = corners
        return Sign(text, (min(xs), min(ys), max(xs), max(ys)), (x1, y1, x2, y2, x3, y3, x4, y4), colour)


_CORNERS: Final = ((-1, -1), (1, -1), (1, 1), (-1, 1))


def _place_items(
    rng: random.Random, wanted: list[tuple[str, str]], large_share: float, sign: Sign | None
) -> list[Item] | None:
    """Items in shares of the side, or None when chance left no room for one of them."""
    shaped = []
    for kind, colour in wanted:
        size = "large" if rng.random() < large_share else "small"
        low, high = SMALL if size == "small" else (LARGE[0], _LARGEST[len(wanted)])
        shaped.append((kind, colour, size, _shape(rng, kind, rng.uniform(low, high))))
    shaped.sort(key=lambda entry: -entry[3].width * entry[3].height)  # the largest first, while there is room
    taken = [] if sign is None else [sign.box]
    items = []
    for kind, colour, size, shape in shaped:
        box = _free_box(rng, shape, taken)
        if box is None:
            return None
        taken.append(box)
        a, b, c, d, e, f = shape.matrix
        matrix = (a, b, c + box[0], d, e, f + box[1])
        items.append(Item(kind, colour, size, box, (), matrix))
    return items


def _shape(rng: random.Random, kind: str, side: float) -> _Shape:
    """`kind` turned, stretched and mirrored a little; without the edge, the square root of its box's area is `side`."""
    angle = math.radians(rng.uniform(-10, 10))
    stretch = rng.uniform(0.9, 1.12)
    mirror = rng.choice((-1.0, 1.0))
    a, b = mirror * stretch * math.cos(angle), -math.sin(angle) / stretch
    d, e = mirror * stretch * math.sin(angle), math.cos(angle) / stretch
    extent = PICTOGRAMS[kind].extent
    xs, ys = extent[:, 0] * a + extent[:, 1] * b, extent[:, 0] * d + extent[:, 1] * e
    left, top = float(xs.min()), float(ys.min())
    width, height = float(xs.max()) - left, float(ys.max()) - top
    scale = min(side / math.sqrt(width * height), _LONGEST_SIDE / max(width, height))
    matrix = (a * scale, b * scale, EDGE - left * scale, d * scale, e * scale, EDGE - top * scale)
    return _Shape(matrix, width * scale + 2 * EDGE, height * scale + 2 * EDGE)


def _free_box(rng: random.Random, shape: _Shape, taken: list[Box]) -> Box | None:
    for _ in range(30):
        x1 = rng.uniform(GAP, 1 - GAP - shape.width)
        y1 = rng.uniform(GAP, 1 - GAP - shape.height)
        box = (x1, y1, x1 + shape.width, y1 + shape.height)
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        if not (_near_thirds(x) or _near_thirds(y)) and all(_apart(box, other) for other in taken):
            return box
    return None


def _near_thirds(share: float) -> bool:
    return min(abs(share - 1 / 3), abs(share - 2 / 3)) < THIRDS_GAP


def _apart(box: Box, other: Box) -> bool:
    """Whether two boxes leave room between them and their centres have one clear order from left to right."""
    if abs(box[0] + box[2] - other[0] - other[2]) < 2 * ORDER_GAP:
        return False
    sideways = max(box[0], other[0]) - min(box[2], other[2])
    upright = max(box[1], other[1]) - min(box[3], other[3])
    return max(sideways, upright) >= GAP


def _scaled_item(item: Item, size_px: int) -> Item:
    a, b, c, d, e, f = (value * size_px for value in item.transform)
    x1, y1, x2, y2 = (value * size_px for value in item.box)
    outline = PICTOGRAMS[item.kind].outline
    polygon = tuple((float(a * u + b * v + c), float(d * u + e * v + f)) for u, v in outline)
    return Item(item.kind, item.colour, item.size, (x1, y1, x2, y2), polygon, (a, b, c, d, e, f))


def _scaled_sign(sign: Sign, size_px: int) -> Sign:
    bx1, by1, bx2, by2 = (value * size_px for value in sign.box)
    x1, y1, x2, y2, x3, y3, x4, y4 = (value * size_px for value in sign.quad)
    return Sign(sign.text, (bx1, by1, bx2, by2), (x1, y1, x2, y2, x3, y3, x4, y4), sign.colour)
