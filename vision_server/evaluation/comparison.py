"""Whether one run does better than another on the same questions: differences with 95 % intervals.

A paired bootstrap (Efron and Tibshirani 1993, chapter 13, percentile intervals): pictures are drawn again with
replacement, as many as there are, and both runs are counted on those drawn. What one picture was asked stays together.
What is rare in captions (CIDEr) stays what it is in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vision_server.errors import BadInput
from vision_server.evaluation.runs import Row, Run, measured

SHARE = 0.95


@dataclass(frozen=True)
class Difference:
    """`low` to `high` holds the true difference, second less first, with 95 % confidence; None: it cannot be told."""

    prompt: str
    name: str
    first: float
    second: float
    low: float | None
    high: float | None

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out that there is none."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Comparison:
    """`left_out` counts the questions that only one of the two was asked."""

    differences: list[Difference]
    questions: int
    left_out: int


def compare(first: Run, second: Run, resamples: int = 1000, seed: int = 0) -> Comparison:
    """Of the questions that both were asked. Raises BadInput where there are none."""
    others = {row.key: row for row in second.rows}
    both = {
        prompt: [(row, others[row.key]) for row in rows if row.key in others]
        for prompt, rows in first.by_prompt().items()
    }
    count = sum(map(len, both.values()))
    if not count:
        raise BadInput("The two evaluations have no question in common.")
    differences = [
        one for pairs in both.values() if pairs for one in _of_prompt(pairs, resamples, np.random.default_rng(seed))
    ]
    return Comparison(differences, count, len(first.rows) + len(second.rows) - 2 * count)


def _of_prompt(pairs: list[tuple[Row, Row]], resamples: int, chance: np.random.Generator) -> list[Difference]:
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    names = list(dict.fromkeys(row.picture for row in ours))
    of_picture = np.array([names.index(row.picture) for row in ours])
    drawn = chance.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)[:, of_picture]
    found = []
    measures = measured(theirs)
    for name, first in measured(ours).items():
        second = measures[name]
        before, after = first.value(), second.value()
        if before is None or after is None:
            continue
        again = [(first.value(weights), second.value(weights)) for weights in drawn.astype(np.float64)]
        apart = [late - early for early, late in again if early is not None and late is not None]
        ends = np.quantile(apart, [(1 - SHARE) / 2, (1 + SHARE) / 2]).tolist() if len(apart) > 1 else [None, None]
        found.append(Difference(ours[0].prompt, name, before, after, *ends))
    return found
