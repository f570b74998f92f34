"""What is learned from as a whole: which examples belong together, and which are kept to validate with."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

from vision_server.dataset.examples import Example


def fingerprint(examples: Sequence[Example]) -> str:
    """The same for the same examples in the same order, whatever folder the pictures lie in."""
    digest = hashlib.sha256()
    for one in examples:
        digest.update(repr((one.picture.name, one.size, one.sentence, one.answer)).encode())
    return digest.hexdigest()


def by_picture(examples: Sequence[Example]) -> list[list[int]]:
    """The places of the examples, those of one picture together."""
    groups: dict[Path, list[int]] = {}
    for place, one in enumerate(examples):
        groups.setdefault(one.picture, []).append(place)
    return list(groups.values())


def split(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """To learn from, and to validate with: about `share` of the pictures, chosen by `seed`, never the same on both
    sides. Where there are at least two pictures, each side gets one."""
    groups = by_picture(examples)
    random.Random(seed).shuffle(groups)
    count = min(max(1, round(share * len(groups))), len(groups) - 1) if share else 0
    kept = {place for group in groups[:count] for place in group}
    return (
        [one for place, one in enumerate(examples) if place not in kept],
        [one for place, one in enumerate(examples) if place in kept],
    )
