"""CIDEr-D: how much a caption says what people said of the same picture, and not what they say of every picture.

Vedantam et al. 2015, "CIDEr: Consensus-based Image Description Evaluation", section 3 and, for D, the appendix. Counts
of 1- to 4-grams are weighted by how rare each is among the pictures' references; the score is the cosine between the
caption and a reference, its counts clipped to the reference's, less the more their lengths differ. Mean over the four
sizes and the references, times ten: 0 to 10. Tokens here are words in small letters; the published code first runs a
tokenizer written in Java, which differs on punctuation only.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_SIZES = (1, 2, 3, 4)
_SIGMA = 6.0  # of the penalty on lengths, in words
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")

_Gram = tuple[str, ...]


def cider(said: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """A score for each picture, 0 to 10: what was said of it against its references.

    What is rare is told from these pictures alone: of a single one nothing can be, and its score is 0.
    """
    counted = [[_grams(text) for text in texts] for texts in references]
    pictures_with: Counter[_Gram] = Counter()
    for texts in counted:
        pictures_with.update({gram for grams in texts for gram in grams})
    rarity = {gram: math.log(len(references) / count) for gram, count in pictures_with.items()}
    unseen = math.log(max(1, len(references)))
    scores = []
    for text, texts in zip(said, counted, strict=True):
        grams = _grams(text)
        likeness = [_likeness(grams, reference, rarity, unseen) for reference in texts]
        scores.append(10 * sum(likeness) / max(1, len(likeness)))
    return scores


def _grams(text: str) -> Counter[_Gram]:
    words = _WORD.findall(text.lower())
    return Counter(tuple(words[at : at + size]) for size in _SIZES for at in range(len(words) - size + 1))


def _likeness(said: Counter[_Gram], true: Counter[_Gram], rarity: dict[_Gram, float], unseen: float) -> float:
    """The mean over the sizes of the clipped cosines, less the penalty; 0 to 1."""
    total = 0.0
    for size in _SIZES:
        ours, theirs = (
            {gram: count * rarity.get(gram, unseen) for gram, count in grams.items() if len(gram) == size}
            for grams in (said, true)
        )
        common = sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in ours.items() if gram in theirs)
        lengths = math.hypot(*ours.values()) * math.hypot(*theirs.values())
        total += common / lengths if lengths else 0.0
    apart = sum(count for gram, count in said.items() if len(gram) == 1)
    apart -= sum(count for gram, count in true.items() if len(gram) == 1)
    return total / len(_SIZES) * math.exp(-(apart**2) / (2 * _SIGMA**2))
