"""What became of the requests of each model, and how long they took, since the server started.

A request counts once, for every picture it had its answers are counted; one that named no model counts nowhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..jobs import Outcome


@dataclass
class Figures:
    """Of one model. Times are sums over the requests, in seconds; the stages are those of the answered ones."""

    successes: int = 0
    success_s: float = 0.0  # from a request's headers to its answer
    failures: int = 0
    failure_s: float = 0.0
    pictures: int = 0  # that were answered about
    queue_s: float = 0.0  # until the worker had the picture, loading included
    decode_s: float = 0.0
    infer_s: float = 0.0
    last_unix_ms: int = 0  # when the last request ended, since 1970; 0 before the first


class Statistics:
    """The figures of each of `models`, by name."""

    def __init__(self, models: Iterable[str]) -> None:
        self._of = {model: Figures() for model in models}

    def of(self, model: str) -> Figures:
        return self._of[model]

    def finished(self, model: str, seconds: float, failed: bool, outcomes: Sequence[Outcome]) -> None:
        """A request is over. Who neither failed nor got an answer of the model's has not used it, and is not counted.

        Pictures of one request run beside each other: its stages are those of the one that took the longest.
        """
        figures = self._of[model]
        if failed:
            figures.failures += 1
            figures.failure_s += seconds
        elif outcomes:
            stages_ms = max((outcome.timings_ms for outcome in outcomes), key=lambda stages: sum(stages.values()))
            figures.successes += 1
            figures.success_s += seconds
            figures.pictures += len(outcomes)
            figures.queue_s += (stages_ms["queue"] + stages_ms["load"]) / 1000
            figures.decode_s += stages_ms["decode"] / 1000
            figures.infer_s += (stages_ms["encode"] + stages_ms["generate"]) / 1000
        else:
            return
        figures.last_unix_ms = int(time.time() * 1000)
