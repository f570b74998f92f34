"""How right answers are, counted: texts to the letter, boxes by label and overlap, outlines by overlap.

Plain counting over many scenes; what is asked and who answers is `evaluate`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vision_server.outlines import RIGHT_BOX_OVERLAP, polygon_iou
from vision_server.tasks import Shape
from vision_server.tasks.regions import overlap
from vision_server.training.words import WORDS

Size = tuple[int, int]


@dataclass
class BoxScore:
    """Boxes of one label are matched greedily by overlap; labels alone are counted as a multiset a picture."""

    said: int = 0
    true: int = 0
    common: int = 0
    matched: int = 0
    hits: int = 0
    overlap_sum: float = 0.0

    def add(self, said: Sequence[Shape], true: Sequence[Shape], size: Size) -> None:
        labels, goals = Counter(one.label for one in said), Counter(one.label for one in true)
        self.said += len(said)
        self.true += len(true)
        self.common += (labels & goals).total()
        shares = _matched(
            said, true, lambda one, goal: overlap(one.rings[0], goal.rings[0]) if one.label == goal.label else None
        )
        self.matched += len(shares)
        self.hits += sum(share >= RIGHT_BOX_OVERLAP for share in shares)
        self.overlap_sum += sum(shares)

    def figures(self) -> dict[str, float]:
        """`f1` counts a box that has its label and overlaps by half, `labels_f1` the labels alone; `mean_iou` is over
        the boxes that met one of their label.
        """
        both = max(1, self.said + self.true)
        return {
            "f1": 2 * self.hits / both,
            "labels_f1": 2 * self.common / both,
            "mean_iou": self.overlap_sum / max(1, self.matched),
        }


@dataclass
class OutlineScore:
    """Quads and polygons. One that is missing, and one too many, counts as an overlap of nothing."""

    pictures: int = 0
    labels_right: int = 0
    wanted: int = 0
    overlap_sum: float = 0.0

    def add(self, said: Sequence[Shape], true: Sequence[Shape], size: Size) -> None:
        self.pictures += 1
        self.labels_right += [one.label for one in said] == [one.label for one in true]
        self.wanted += max(len(said), len(true))
        self.overlap_sum += sum(_matched(said, true, lambda one, goal: polygon_iou(one.rings, goal.rings, size)))

    def figures(self) -> dict[str, float]:
        """`labels` is the share of pictures whose labels are all right, to the letter."""
        return {"mean_iou": self.overlap_sum / max(1, self.wanted), "labels": self.labels_right / max(1, self.pictures)}


def _matched(
    said: Sequence[Shape], true: Sequence[Shape], share: Callable[[Shape, Shape], float | None]
) -> list[float]:
    """The overlaps of the pairs, the best first, each shape in one pair; None are no pair."""
    pairs = [
        (part, i, j)
        for i, one in enumerate(said)
        for j, goal in enumerate(true)
        if (part := share(one, goal)) is not None
    ]
    used: set[int] = set()
    met: set[int] = set()
    parts = []
    for part, i, j in sorted(pairs, reverse=True):
        if i not in used and j not in met:
            used.add(i)
            met.add(j)
            parts.append(part)
    return parts


def edit_distance(said: str, true: str) -> int:
    """Levenshtein's: insertions, deletions and substitutions of characters."""
    row = list(range(len(true) + 1))
    for i, left in enumerate(said, 1):
        before, row = row, [i]
        for j, right in enumerate(true, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (left != right)))
    return row[-1]


def exact(pairs: Iterable[tuple[str, str]]) -> float:
    """The share of (said, true) pairs that are equal."""
    counted = [said == true for said, true in pairs]
    return sum(counted) / max(1, len(counted))


def reading(signs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """(said, true) pairs of the scenes with a sign: words of the vocabulary apart from random letters."""
    words = [pair for pair in signs if pair[1] in WORDS]
    letters = [pair for pair in signs if pair[1] not in WORDS]
    errors = sum(edit_distance(said, true) for said, true in letters)
    return {
        "words_exact": exact(words),
        "letters_character_error_rate": errors / max(1, sum(len(true) for _, true in letters)),
    }
