"""What a scene's picture truly shows, as the exact text a model is to generate for a prompt.

The grammar is short and regular because the model that learns it is small. Things are named in the alphabet's order of
their kinds, the sign among them, and those of one kind from left to right: what comes next then depends on what there
is, which a small model learns long before it learns to scan. Places are `<loc_n>` tokens in thousandths of the side.
Generation bans a 3-gram that was there before, so a truth with one could never be said. That is why things of one kind
are named together, and why captions have no articles; one in a hundred detailed ones still repeats three words.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vision_server.training.pictograms import KINDS
from vision_server.training.scenes import BACKGROUNDS, COLOURS, Item, Scene, Sign

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NO_TEXT: Final = "no text"
NUMBERS: Final = ("no", "one", "two", "three", "four", "five")


def truth(scene: Scene, token: str) -> str:
    """The text for the prompt `token`, one of TOKENS; KeyError for any other."""
    return _TRUTHS[token](scene)


def things(scene: Scene) -> list[Item | Sign]:
    """Items and sign in the order in which they are named: by kind, those of one kind from left to right."""
    found: list[Item | Sign] = [*scene.items]
    if scene.sign is not None:
        found.append(scene.sign)
    return sorted(found, key=lambda thing: (_label(thing), thing.box[0] + thing.box[2]))


def locations(values: Iterable[float], size_px: int) -> str:
    """Pixels as `<loc_n>` tokens: n = floor(1000 * value / size), held between 0 and 999."""
    return "".join(f"<loc_{min(999, max(0, int(value * 1000 // size_px)))}>" for value in values)


def _listed(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _counted(names: Iterable[str]) -> list[str]:
    """Each different name once, at its first place, with how many there are if there are several."""
    counts = Counter(names)
    return [name if count == 1 else f"{NUMBERS[count]} {_plural(name)}" for name, count in counts.items()]


def _plural(name: str) -> str:
    return name if name.endswith("fish") else f"{name}s"


def _label(thing: Item | Sign) -> str:
    return thing.kind if isinstance(thing, Item) else "sign"


def _detailed_label(thing: Item | Sign) -> str:
    return f"{thing.colour} {thing.kind}" if isinstance(thing, Item) else f"sign that says {thing.text}"


def _caption(scene: Scene) -> str:
    counts = Counter(map(_label, things(scene)))
    names = [_plural(name) if count > 1 else name for name, count in counts.items()]
    return f"{_listed(names)} on a {scene.background.split()[0]} background"


def _detailed_caption(scene: Scene) -> str:
    by_colour = sorted(things(scene), key=lambda thing: (_label(thing), thing.colour))
    return f"{_listed(_counted(map(_detailed_label, by_colour)))} on a {scene.background} background"


def _objects(scene: Scene) -> str:
    return "".join(_label(thing) + locations(thing.box, scene.size_px) for thing in things(scene))


def _dense_captions(scene: Scene) -> str:
    return "".join(_detailed_label(thing) + locations(thing.box, scene.size_px) for thing in things(scene))


def _proposals(scene: Scene) -> str:
    return "".join(locations(thing.box, scene.size_px) for thing in things(scene))


def _text(scene: Scene) -> str:
    return NO_TEXT if scene.sign is None else scene.sign.text


def _text_with_region(scene: Scene) -> str:
    return "" if scene.sign is None else scene.sign.text + locations(scene.sign.quad, scene.size_px)


def _tags(scene: Scene) -> str:
    kinds = sorted({_label(thing) for thing in things(scene)})
    colours = sorted({item.colour for item in scene.items})
    return ", ".join([*kinds, *colours, f"{scene.background.split()[0]} background"])


_TRUTHS: Final[dict[str, Callable[[Scene], str]]] = {
    "<CAPTION>": _caption,
    "<DETAILED_CAPTION>": _detailed_caption,
    "<OD>": _objects,
    "<OCR>": _text,
    "<OCR_WITH_REGION>": _text_with_region,
    "<GENERATE_TAGS>": _tags,
    "<DENSE_REGION_CAPTION>": _dense_captions,
    "<REGION_PROPOSAL>": _proposals,
}
TOKENS: Final[tuple[str, ...]] = tuple(_TRUTHS)


@dataclass(frozen=True, eq=False)
class Cells:
    """Truth for every cell of a grid laid over the picture, to supervise the vision tower; int64 arrays [row, column].

    `kind`: 0 nothing, 1..len(KINDS) that kind, len(KINDS) + 1 the sign. `colour`: 0 no item, else 1 + its place in
    COLOURS. `character`: 0 none, 1..26 the letter A..Z of the sign whose middle lies in the cell (the leftmost, where
    a coarse grid puts two in one). `box`: float32 [row, column, 4], the box of the cell's thing in shares of the side,
    zeros where `kind` is 0. `background`: the place in BACKGROUNDS.
    """

    kind: NDArray[np.int64]
    colour: NDArray[np.int64]
    character: NDArray[np.int64]
    box: NDArray[np.float32]
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
    if scene.sign is not None:
        for letter, (x, y) in zip(scene.sign.text, scene.sign.letter_centres(), strict=True):
            row, column = int(y / side), int(x / side)
            if character[row, column] == 0:
                character[row, column] = LETTERS.index(letter) + 1
    return Cells(kind, colour, character, box, BACKGROUNDS.index(scene.background))
