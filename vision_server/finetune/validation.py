"""What a model in training is worth: how likely the true answers are, and how right those are that it gives.

The answers come from the engine with the weights as they would be served, default beam search included.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vision_server.dataset.examples import Example
from vision_server.dataset.pictures import read
from vision_server.engine import Florence
from vision_server.evaluation.cider import cider
from vision_server.outlines import mean_iou
from vision_server.tasks import answer
from vision_server.training.scoring import edit_distance

_AT_ONCE = 16


@dataclass(frozen=True)
class Answer:
    example: Example
    said: str


def answers(florence: Florence, examples: Sequence[Example]) -> list[Answer]:
    side = (florence.config.preprocess.width, florence.config.preprocess.height)
    given = []
    for first in range(0, len(examples), _AT_ONCE):
        some = examples[first : first + _AT_ONCE]
        said = florence.generate([(read(one.picture, side), one.sentence) for one in some])
        given += [Answer(one, made.text) for one, made in zip(some, said, strict=True)]
    return given


def figures(given: Sequence[Answer]) -> dict[str, float]:
    """Shares between 0 and 1, each where there is something to count.

    `exact` is of all answers, to the letter. `similarity` is of texts: one less the edit distance over the longer
    one's length; `cider` is the mean CIDEr-D, 0 to 10, of texts. `iou` is of answers with places, see
    `outlines.mean_iou`.
    """
    exact, alike, overlaps = [], [], []
    texts: list[tuple[str, str]] = []
    for one in given:
        example = one.example
        said, true = (answer(example.token, text, example.size) for text in (one.said, example.answer))
        exact.append(float(said == true))
        if isinstance(said, str) and isinstance(true, str):
            texts.append((said, true))
            longer = max(len(said), len(true), 1)
            alike.append(1 - edit_distance(said, true) / longer)
        elif not isinstance(said, str) and not isinstance(true, str):
            overlaps.append(mean_iou(said, true, example.size))
    weighed = cider([said for said, _ in texts], [[true] for _, true in texts])
    counted = {"exact": exact, "similarity": alike, "cider": weighed, "iou": overlaps}
    return {name: sum(values) / len(values) for name, values in counted.items() if values}


def write_answers(given: Sequence[Answer], path: Path) -> None:
    """Beside the figures, what they were counted from: JSON Lines."""
    rows = [
        {"where": one.example.where, "sentence": one.example.sentence, "true": one.example.answer, "said": one.said}
        for one in given
    ]
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
