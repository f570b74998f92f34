"""Truth for every cell of a grid laid over a scene's picture, to supervise the vision tower in training."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vision_server.training.pictograms import KINDS
from vision_server.training.scenes import BACKGROUNDS, COLOURS, Item, Scene, Sign
from vision_server.training.truth import OUTLINE_POINTS, ninth, outline, things

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LONGEST_TEXT: Final = 6
SIZES: Final = ("small", "large")
COLUMNS: Final = ("left", "centre", "right")
ROWS: Final = ("top", "centre", "bottom")
END: Final = len(LETTERS)
IGNORED: Final = -100


@dataclass(frozen=True, eq=False)
class Cells:
    """Truth for every cell of a grid laid over the picture, to supervise the vision tower; int64 arrays [row, column].

    `kind`: 0 nothing, 1..len(KINDS) that kind, len(KINDS) + 1 the sign. `colour`: 0 no item, else 1 + its place in
    COLOURS. `character`: 0 none, 1..26 the letter A..Z of the sign whose middle lies in the cell (the leftmost, where
    a coarse grid puts two in one). `box`: float32 [row, column, 4], the box of the cell's thing in shares of the side,
    zeros where `kind` is 0. `outline`: float32 [row, column, OUTLINE_POINTS, 2], its outline likewise, of which the
    first `points` [row, column] are real. `text`: [LONGEST_TEXT + 1], the sign's letters 0..25, then END, then IGNORED;
    all IGNORED without a sign. `words`: [row, column, 5], the thing's name (a place in KINDS, or behind them the sign),
    colour, size (IGNORED for the sign), column and row of its middle, each a place in its tuple; IGNORED where there is
    no thing. `background`: the place in BACKGROUNDS.
    """

    kind: NDArray[np.int64]
    colour: NDArray[np.int64]
    character: NDArray[np.int64]
    box: NDArray[np.float32]
    outline: NDArray[np.float32]
    points: NDArray[np.int64]
    text: NDArray[np.int64]
    words: NDArray[np.int64]
    background: int


def cells(scene: Scene, grid: int) -> Cells:
    """The truth per cell of a `grid` x `grid` division.

    A cell belongs to the thing whose box covers most of it, and at least 35 % of it; the cell in which a thing's centre
    lies is always its own.
    """
    side = scene.size_px / grid
    edges = np.arange(grid) * side
    kind = np.zeros((grid, grid), dtype=np.int64)
    colour = np.zeros_like(kind)
    character = np.zeros_like(kind)
    box = np.zeros((grid, grid, 4), dtype=np.float32)
    outlines = np.zeros((grid, grid, OUTLINE_POINTS, 2), dtype=np.float32)
    points = np.zeros_like(kind)
    text = np.full(LONGEST_TEXT + 1, IGNORED, dtype=np.int64)
    words = np.full((grid, grid, 5), IGNORED, dtype=np.int64)
    best = np.full((grid, grid), 0.35)
    for thing in things(scene):
        x1, y1, x2, y2 = thing.box
        across = np.clip(np.minimum(edges + side, x2) - np.maximum(edges, x1), 0, side) / side
        down = np.clip(np.minimum(edges + side, y2) - np.maximum(edges, y1), 0, side) / side
        share = np.outer(down, across)
        share[int((y1 + y2) / 2 / side), int((x1 + x2) / 2 / side)] = 2.0
        own = share > best
        best = np.where(own, share, best)
        kind[own] = KINDS.index(thing.kind) + 1 if isinstance(thing, Item) else len(KINDS) + 1
        colour[own] = COLOURS.index(thing.colour) + 1 if isinstance(thing, Item) else 0
        box[own] = np.array(thing.box, dtype=np.float32) / scene.size_px
        around = np.array(outline(thing), dtype=np.float32).reshape(-1, 2) / scene.size_px
        outlines[own, : len(around)] = around
        points[own] = len(around)
        words[own] = _words(thing, scene.size_px)
    if scene.sign is not None:
        text[: len(scene.sign.text) + 1] = [*map(LETTERS.index, scene.sign.text), END]
        for letter, (x, y) in zip(scene.sign.text, scene.sign.letter_centres(), strict=True):
            row, column = int(y / side), int(x / side)
            if character[row, column] == 0:
                character[row, column] = LETTERS.index(letter) + 1
    return Cells(kind, colour, character, box, outlines, points, text, words, BACKGROUNDS.index(scene.background))


def _words(thing: Item | Sign, size_px: int) -> list[int]:
    name, size = (
        (KINDS.index(thing.kind), SIZES.index(thing.size)) if isinstance(thing, Item) else (len(KINDS), IGNORED)
    )
    return [name, COLOURS.index(thing.colour), size, *ninth(thing, size_px)]
