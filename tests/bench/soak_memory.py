"""Whether a process grows: slopes of its memory over time that a few outliers do not bend, and how sure they are.

Plain arithmetic. Not a benchmark.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

MIB = 1 << 20
BINS = 24  # of a series; samples that follow each other closely say the same thing, and would pretend to be many
SURE = 3.0  # standard errors

Series = Sequence[tuple[float, float]]  # (seconds, bytes), in order of time


@dataclass(frozen=True)
class Slope:
    """`noise` is the slope's standard error; `hours` is the time that the longest series spans."""

    mib_per_hour: float
    noise_mib_per_hour: float
    hours: float
    points: int

    def exceeds(self, growth_mib: float) -> bool:
        """Whether it surely is more than such a growth over `hours`."""
        return (self.mib_per_hour - SURE * self.noise_mib_per_hour) * self.hours > growth_mib

    def __str__(self) -> str:
        return f"{self.mib_per_hour:+.1f} ± {self.noise_mib_per_hour:.1f} MiB/h"


def slope(*series: Series) -> Slope | None:
    """What all series have in common, each with a height of its own: the median of the slopes between any two points
    of the same series (Theil and Sen), after each series was cut into BINS medians. None without four points.

    The noise is the standard error of a line through as many points, with the residuals' spread from their median
    absolute deviation.
    """
    lines = [binned(one) for one in series]
    slopes = [(y2 - y1) / (x2 - x1) for one in lines for (x1, y1), (x2, y2) in combinations(one, 2) if x2 > x1]
    points = sum(map(len, lines))
    if points < 4 or not slopes:
        return None
    steepness = statistics.median(slopes)
    residuals: list[float] = []
    leverage = 0.0
    for one in lines:
        height = statistics.median(y - steepness * x for x, y in one)
        residuals += [y - steepness * x - height for x, y in one]
        middle = statistics.fmean(x for x, _ in one)
        leverage += sum((x - middle) ** 2 for x, _ in one)
    spread = 1.4826 * statistics.median(map(abs, residuals))
    hours = max(one[-1][0] - one[0][0] for one in series) / 3600
    return Slope(_mib_per_hour(steepness), _mib_per_hour(spread / math.sqrt(leverage)), hours, points)


def _mib_per_hour(bytes_per_s: float) -> float:
    return bytes_per_s * 3600 / MIB


def binned(one: Series) -> list[tuple[float, float]]:
    """At most BINS points, each the median time and height of as many samples that follow each other."""
    size = math.ceil(len(one) / BINS) or 1
    parts = [one[first : first + size] for first in range(0, len(one), size)]
    return [(statistics.median(x for x, _ in part), statistics.median(y for _, y in part)) for part in parts]
