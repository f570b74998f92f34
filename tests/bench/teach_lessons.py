"""What `teach` teaches and asks: drawn scenes as a person's own data, JSON Lines beside a folder of pictures.

Two things are new to the embedded checkpoint. A style: `<CAPTION>` is to be answered in another grammar, of the same
content. And a kind of pictogram, the hat, which no scene that it learned from has. Among the lessons stand the other
prompts as they always were, since what is not rehearsed is forgotten. Not a benchmark.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from vision_server.training.batches import LONG, SHORT, chosen
from vision_server.training.drawing import draw
from vision_server.training.pictograms import KINDS
from vision_server.training.questions import PROMPTS, Question, ask
from vision_server.training.scenes import EVAL_SEEDS, TEXTURES, TRAIN_SEEDS, Scene, scene
from vision_server.training.truth import kinds, plural, things

NEW: Final = "hat"
STYLED: Final = "<CAPTION>"
FOUND: Final = "<OD>"
KEPT: Final = tuple(token for token in PROMPTS if token != STYLED)
LESSONS, VALIDATION, STYLE, HATS, OLD = "lessons.jsonl", "validation.jsonl", "style.jsonl", "hats.jsonl", "old.jsonl"

_SOME_HATS = (*KINDS, *(NEW,) * 7)  # a third of the things are hats
_AWAY = 20_000  # scenes at the beginning of EVAL_SEEDS that other evaluations count
_NAMES = (*KINDS, NEW, "sign")
_NAME = "|".join(sorted({*_NAMES, *map(plural, _NAMES)}))
_GRAMMAR = re.compile(rf"pictogram art, ({'|'.join(TEXTURES)}) background((?:, (?:{_NAME}))+)")
_OLD_GRAMMAR = re.compile(rf"((?:{_NAME})(?:, (?:{_NAME}))*(?: and (?:{_NAME}))?) on a (\w+) background")


@dataclass(frozen=True)
class Plan:
    """How many pictures there are to learn from, to validate with, and to ask about: the style, the hats, and what was
    known before. `rows` are asked of a picture that is learned from, `weights` say how often which prompt; of
    `hats_every` such pictures one has hats."""

    lessons: int
    validation: int
    style: int
    hats: int
    old: int
    rows: int
    weights: dict[str, float]
    hats_every: int
    kept: tuple[str, ...] = KEPT


# None hardly ever; the long answers, which are lost first, more often.
_REHEARSED = {token: min(2.0, max(1.0, weight)) for token, weight in SHORT.items()}
_REHEARSED |= {token: min(3.0, max(1.5, 1.5 * weight)) for token, weight in LONG.items()}
WHOLE: Final = Plan(7000, 40, style=150, hats=100, old=40, rows=4, weights={**_REHEARSED, STYLED: 6.0}, hats_every=3)
BRIEF: Final = Plan(
    120, 8, style=16, hats=16, old=16, rows=2, weights={STYLED: 1.0, FOUND: 1.0}, hats_every=2, kept=(FOUND, "<OCR>")
)


def styled(shown: Scene) -> str:
    """The caption in the new style: what comes last in the old one comes first, and nothing is joined by "and"."""
    return f"pictogram art, {shown.background.split()[0]} background, {', '.join(kinds(things(shown)))}"


def follows(text: str) -> bool:
    """Whether a text is of the new style's grammar, right or wrong."""
    return _GRAMMAR.fullmatch(text) is not None


def content(text: str) -> str:
    """What a caption of either grammar says, in one form; "" for a text that is of neither."""
    if match := _GRAMMAR.fullmatch(text):
        texture, names = match[1], match[2].split(", ")[1:]
    elif match := _OLD_GRAMMAR.fullmatch(text):
        texture, names = match[2], re.split(", | and ", match[1])
    else:
        return ""
    return f"{', '.join(sorted(names))}; {texture}"


def taught(shown: Scene, token: str) -> Question:
    """What is asked of a scene, with the answer that is right from now on."""
    question = ask(shown, token)
    return replace(question, truth=styled(shown)) if token == STYLED else question


def write_lessons(folder: Path, plan: Plan) -> None:
    """The five files and their pictures. The same plan gives the same bytes."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    unseen = iter(EVAL_SEEDS[_AWAY:])
    _write(folder / LESSONS, _lessons(iter(TRAIN_SEEDS), plan, plan.lessons, rng))
    _write(folder / VALIDATION, _lessons(unseen, plan, plan.validation, rng))
    _write(folder / STYLE, _asked(_scenes(unseen, plan.style), (STYLED,)))
    _write(folder / HATS, _asked(_scenes(unseen, plan.hats, with_hats=True), (FOUND, STYLED)))
    _write(folder / OLD, _asked(_scenes(unseen, plan.old), plan.kept))


_Row = tuple[Scene, Question]


def _scenes(seeds: Iterator[int], count: int, with_hats: bool = False) -> Iterator[Scene]:
    while count:
        shown = scene(next(seeds), kinds=_SOME_HATS if with_hats else KINDS)
        if any(item.kind == NEW for item in shown.items) is with_hats:
            count -= 1
            yield shown


def _lessons(seeds: Iterator[int], plan: Plan, count: int, rng: random.Random) -> Iterator[_Row]:
    """Of pictures with hats the caption and the boxes are always asked, with others."""
    for place in range(count):
        with_hats = place % plan.hats_every == 1
        [shown] = _scenes(seeds, 1, with_hats)
        tokens = chosen(rng, plan.weights, plan.rows)
        if with_hats:
            tokens = [STYLED, FOUND, *(token for token in tokens if token not in (STYLED, FOUND))][: plan.rows]
        yield from _asked([shown], tokens)


def _asked(scenes: Iterable[Scene], tokens: Sequence[str]) -> Iterator[_Row]:
    return ((shown, taught(shown, token)) for shown in scenes for token in tokens)


def _write(path: Path, rows: Iterable[_Row]) -> None:
    drawn: set[str] = set()
    with path.open("w", encoding="utf-8") as file:
        for shown, question in rows:
            name = f"pictures/{path.stem}-{shown.seed}.png"
            if name not in drawn:
                drawn.add(name)
                draw(shown).save(path.parent / name, compress_level=1)
            row: dict[str, Any] = {"image": name, "prompt": question.token, "answer": question.truth}
            row |= {key: value for key in ("text", "region") if (value := getattr(question, key))}
            file.write(f"{json.dumps(row)}\n")
