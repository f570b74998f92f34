"""How right the answers to one prompt are, in figures that are sums over pictures, so that pictures can be drawn again.

Texts: the share that is right to the letter, CIDEr-D (`cider`), and where letters are read, the character error rate as
jiwer counts it (the largest number of truths is compared with the nearest). Places: the share of answers that are right
as a whole (`outlines.agrees`), the mean overlap (`outlines.mean_iou`), and average precision (`detection`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray

from vision_server.evaluation.cider import cider
from vision_server.evaluation.detection import Detections
from vision_server.outlines import agrees, mean_iou
from vision_server.tasks import of_token, shapes

Answer = str | Mapping[str, Any]
Size = tuple[int, int]

_READ = ("<OCR>", "<REGION_TO_OCR>", "<OCR_WITH_REGION>")  # whose letters are counted
_SAID_FREELY = ("<OCR_WITH_REGION>", "<DENSE_REGION_CAPTION>")  # labels that are texts, not categories
SHOWN = {
    "exact": "exact",
    "cider": "CIDEr",
    "cer": "letter errors",
    "ap50": "AP at .5",
    "ap": "AP .5:.95",
    "iou": "mean IoU",
}
LESS_IS_BETTER = ("cer",)


@dataclass(frozen=True)
class Answered:
    """One question of one prompt with what was said; `true` has several only where they are texts."""

    key: str
    picture: str
    size: Size
    said: Answer
    true: tuple[Answer, ...]


@dataclass(frozen=True)
class Ratio:
    """A figure that is one sum over another; an entry each question."""

    above: NDArray[np.float64]
    below: NDArray[np.float64]

    def value(self, weights: NDArray[np.float64] | None = None) -> float | None:
        """With `weights` each question counts so often; None where there is nothing to count."""
        above, below = (part.sum() if weights is None else weights @ part for part in (self.above, self.below))
        return float(above / below) if below else None


Measure = Ratio | Detections


def measures(token: str, answered: Sequence[Answered]) -> dict[str, Measure]:
    """By name, in the order in which people are shown them."""
    if of_token(token).answer == "text":
        return _of_texts(token, answered)
    return _of_places(token, answered)


def _of_texts(token: str, answered: Sequence[Answered]) -> dict[str, Measure]:
    said, true = [str(one.said) for one in answered], [[str(text) for text in one.true] for one in answered]
    found: dict[str, Measure] = {
        "exact": _mean([text in texts for text, texts in zip(said, true, strict=True)]),
        "cider": _mean(cider(said, true)),
    }
    if token in _READ:
        found["cer"] = _letters(said, true)
    return found


def _of_places(token: str, answered: Sequence[Answered]) -> dict[str, Measure]:
    freely = token in _SAID_FREELY
    pairs = [(_unlabelled(one.said, freely), _unlabelled(one.true[0], freely)) for one in answered]
    sizes = [one.size for one in answered]
    found: dict[str, Measure] = {
        "exact": _mean([agrees(one.said, one.true[0], one.size) for one in answered]),
    }
    if token in _READ:
        found["cer"] = _letters([_text_of(one.said) for one in answered], [[_text_of(one.true[0])] for one in answered])
    places = [(shapes(said), shapes(true)) for said, true in pairs]
    found["ap50"], found["ap"] = Detections(places, sizes, first_only=True), Detections(places, sizes)
    found["iou"] = _mean([mean_iou(said, true, size) for (said, true), size in zip(pairs, sizes, strict=True)])
    return found


def _mean(values: Sequence[float]) -> Ratio:
    return Ratio(np.array(values, np.float64), np.ones(len(values)))


def _letters(said: Sequence[str], true: Sequence[Sequence[str]]) -> Ratio:
    """Wrong, missing and superfluous letters over those that are true; of several truths the nearest."""
    rows = [
        min((_wrong(text, one) for one in texts), key=lambda row: row[0])
        for text, texts in zip(said, true, strict=True)
    ]
    return Ratio(*np.array(rows, np.float64).reshape(-1, 2).T)


def _wrong(said: str, true: str) -> tuple[int, int]:
    counted = jiwer.process_characters([true], [said])
    return (
        counted.substitutions + counted.deletions + counted.insertions,
        counted.substitutions + counted.deletions + counted.hits,
    )


def _text_of(result: Answer) -> str:
    return "\n".join(shape.label for shape in shapes(result))


def _unlabelled(result: Answer, freely: bool) -> Mapping[str, Any]:
    """The places of an answer, without labels where those are said freely."""
    assert not isinstance(result, str), "a prompt for places is answered with them"
    if not freely:
        return result
    return {name: [""] * len(value) if name.endswith("labels") else value for name, value in result.items()}
