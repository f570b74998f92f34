"""What a scene's picture truly shows, as the exact text a model is to generate for a prompt without an input.

The grammar is short and regular because the model that learns it is small. Things are named in the alphabet's order of
their kinds, the sign among them, and those of one kind from left to right: what comes next then depends on what there
is, which a small model learns long before it learns to scan. Places are `<loc_n>` tokens in thousandths of the side.
Generation bans a 3-gram that was there before, so a truth with one could never be said. That is why things of one kind
are named together, why captions have no articles, and why the parts of a mixed answer share no three words; one in a
hundred detailed captions still repeats three words. Prompts that take a text or a region are in `questions`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from vision_server.tasks.regions import quantize
from vision_server.training.scenes import Item, Scene, Sign

OUTLINE_POINTS: Final = 16
NO_TEXT: Final = "no text"
NUMBERS: Final = ("no", "one", "two", "three", "four", "five", "six")
_COLUMNS: Final = ("left", "", "right")
_ROWS: Final = ("top", "", "bottom")


def truth(scene: Scene, token: str) -> str:
    """The text for the prompt `token`, one of TOKENS; KeyError for any other."""
    return _TRUTHS[token](scene)


def things(scene: Scene) -> list[Item | Sign]:
    """Items and sign in the order in which they are named: by kind, those of one kind from left to right."""
    found: list[Item | Sign] = [*scene.items]
    if scene.sign is not None:
        found.append(scene.sign)
    return sorted(found, key=lambda thing: (label(thing), thing.box[0] + thing.box[2]))


def locations(values: Iterable[float], size_px: int) -> str:
    """Pixels as `<loc_n>` tokens: n = floor(1000 * value / size), held between 0 and 999."""
    return "".join(f"<loc_{quantize(value, size_px)}>" for value in values)


def outline(thing: Item | Sign) -> list[float]:
    """The thing's outline in pixels, x, y, x, y, ..., clockwise: a sign's four corners, an item's OUTLINE_POINTS.

    Seen from the middle of the box, in its own measure, those lie at equal angles, the first at the top: where each
    stands in the text says in which direction to look, whatever the thing. What a ray leaves and enters again is
    filled, so a hollow that opens to the side (the moon's, the umbrella's) is partly lost.
    """
    if isinstance(thing, Sign):
        return list(thing.quad)
    x1, y1, x2, y2 = thing.box
    middle_x, middle_y, half_x, half_y = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
    around = [((x - middle_x) / half_x, (y - middle_y) / half_y) for x, y in thing.polygon]
    points = []
    for step in range(OUTLINE_POINTS):
        across, down = math.sin(2 * math.pi * step / OUTLINE_POINTS), -math.cos(2 * math.pi * step / OUTLINE_POINTS)
        reach = _reach(around, across, down)
        points += [middle_x + reach * across * half_x, middle_y + reach * down * half_y]
    return points


def _reach(around: list[tuple[float, float]], across: float, down: float) -> float:
    """How far the polygon reaches from the origin in a direction; never nothing, for no two points may be the same."""
    reach = 0.1
    for (ax, ay), (bx, by) in zip(around, [*around[1:], around[0]], strict=True):
        slope = across * (by - ay) - down * (bx - ax)
        if slope and -1e-9 <= (ax * down - ay * across) / slope <= 1 + 1e-9:
            reach = max(reach, (ax * (by - ay) - ay * (bx - ax)) / slope)
    return reach


def label(thing: Item | Sign) -> str:
    return thing.kind if isinstance(thing, Item) else "sign"


def look(thing: Item | Sign) -> str:
    """Colour and kind."""
    return f"{thing.colour} {label(thing)}"


def place(thing: Item | Sign, size_px: int) -> str:
    """Which ninth of the picture the middle lies in: "top left", "left", "centre", ..."""
    column, row = ninth(thing, size_px)
    return f"{_ROWS[row]} {_COLUMNS[column]}".strip() or "centre"


def ninth(thing: Item | Sign, size_px: int) -> tuple[int, int]:
    """Column and row of the middle, 0 to 2 from the left and from the top."""
    x1, y1, x2, y2 = thing.box
    column, row = (min(2, max(0, int((low + high) / 2 / size_px * 3))) for low, high in ((x1, x2), (y1, y2)))
    return column, row


def listed(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def plural(name: str) -> str:
    return name if name.endswith("fish") else f"{name}s"


def kinds(shown: Iterable[Item | Sign]) -> list[str]:
    """Each different kind once, in the plural if there are several of it."""
    return [plural(name) if count > 1 else name for name, count in Counter(map(label, shown)).items()]


def _counted(names: Iterable[str]) -> list[str]:
    """Each different name once, at its first place, with how many there are if there are several."""
    counts = Counter(names)
    return [name if count == 1 else f"{NUMBERS[count]} {plural(name)}" for name, count in counts.items()]


def _telling(thing: Item | Sign) -> str:
    return look(thing) if isinstance(thing, Item) else f"sign that says {thing.text}"


def _caption(scene: Scene) -> str:
    return f"{listed(kinds(things(scene)))} on a {scene.background.split()[0]} background"


def _detailed_caption(scene: Scene) -> str:
    by_colour = sorted(things(scene), key=lambda thing: (label(thing), thing.colour))
    return f"{listed(_counted(map(_telling, by_colour)))} on a {scene.background} background"


def _paragraph(scene: Scene) -> str:
    count = len(things(scene))
    number = "is one thing" if count == 1 else f"are {NUMBERS[count]} things"
    sign = scene.sign
    last = f"The sign is {sign.colour}, at the {place(sign, scene.size_px)}." if sign else "No sign stands in it."
    return f"{_detailed_caption(scene)}. There {number} in all. {last}"


def _objects(scene: Scene) -> str:
    return "".join(label(thing) + locations(thing.box, scene.size_px) for thing in things(scene))


def _dense_captions(scene: Scene) -> str:
    return "".join(look(thing) + locations(thing.box, scene.size_px) for thing in things(scene))


def _proposals(scene: Scene) -> str:
    return "".join(locations(thing.box, scene.size_px) for thing in things(scene))


def _text(scene: Scene) -> str:
    return NO_TEXT if scene.sign is None else scene.sign.text


def _text_with_region(scene: Scene) -> str:
    return "" if scene.sign is None else scene.sign.text + locations(scene.sign.quad, scene.size_px)


def _tags(scene: Scene) -> str:
    names = sorted({label(thing) for thing in things(scene)})
    return ", ".join([*names, *_colours(scene), f"{scene.background.split()[0]} background"])


def _colours(scene: Scene) -> list[str]:
    return sorted({item.colour for item in scene.items})


def _analysis(scene: Scene) -> str:
    texture, tint = scene.background.split()
    colour, text = (scene.sign.colour, scene.sign.text) if scene.sign else ("no", "NA")
    count = NUMBERS[len(things(scene))]
    return f"things: {count}, texture: {texture}, tint: {tint}, sign: {colour}, text: {text}"


def _mixed(scene: Scene) -> str:
    # the caption has named the kinds, and has ended as the tags would if the background came last
    return f"{_caption(scene)}\n{', '.join([f'{scene.background.split()[0]} background', *_colours(scene)])}"


def _mixed_plus(scene: Scene) -> str:
    return f"{_mixed(scene)}\n{_analysis(scene)}"


_TRUTHS: Final[dict[str, Callable[[Scene], str]]] = {
    "<CAPTION>": _caption,
    "<DETAILED_CAPTION>": _detailed_caption,
    "<MORE_DETAILED_CAPTION>": _paragraph,
    "<OD>": _objects,
    "<OCR>": _text,
    "<OCR_WITH_REGION>": _text_with_region,
    "<DENSE_REGION_CAPTION>": _dense_captions,
    "<REGION_PROPOSAL>": _proposals,
    "<GENERATE_TAGS>": _tags,
    "<GENERATE_PROMPT>": _tags,
    "<MIXED_CAPTION>": _mixed,
    "<MIX_CAPTION>": _mixed,
    "<MIXED_CAPTION_PLUS>": _mixed_plus,
    "<MIX_CAPTION_PLUS>": _mixed_plus,
    "<ANALYZE>": _analysis,
}
TOKENS: Final[tuple[str, ...]] = tuple(_TRUTHS)
