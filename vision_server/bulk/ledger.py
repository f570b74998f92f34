"""How often engines died, and over what: the memory that an engine that died does not have.

Ray starts an engine that died anew and gives it the same batch again, without end. What ends it is written down here:
a batch that an engine died with is asked picture by picture, a picture that two engines died with alone is given up,
and so is what is left of a batch that took too many. Plain Python; `cluster` makes an actor of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Limits:
    """Deaths after which a picture that is asked alone, a batch, and the whole run are given up."""

    alone: int = 2
    batch: int = 8
    in_a_row: int = 6


@dataclass
class Begun:
    """What is known of a batch: its deaths, of each picture how often it was begun alone, and the answers of those
    that were done; `hopeless` when engines die without an answer between."""

    deaths: int = 0
    alone: dict[str, int] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)
    hopeless: bool = False


class Book(Protocol):
    """`Ledger`, or what stands for it in another process."""

    limits: Limits

    def begin(self, batch: str) -> Begun: ...

    def alone(self, batch: str, picture: str) -> None: ...

    def keep(self, batch: str, picture: str, rows: bytes) -> None: ...

    def end(self, batch: str, answered: bool) -> None: ...


class Ledger:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._batches: dict[str, Begun] = {}
        self._deaths = self._in_a_row = 0

    def begin(self, batch: str) -> Begun:
        """An engine takes it up; if one did before and said no end, it died."""
        if batch in self._batches:
            self._deaths += 1
            self._in_a_row += 1
            begun = self._batches[batch]
            begun.deaths += 1
        else:
            begun = self._batches[batch] = Begun()
        begun.hopeless = self._in_a_row >= self.limits.in_a_row
        return begun

    def alone(self, batch: str, picture: str) -> None:
        begun = self._batches[batch].alone
        begun[picture] = begun.get(picture, 0) + 1

    def keep(self, batch: str, picture: str, rows: bytes) -> None:
        """Answers, should the engine die over another picture of the batch."""
        self._batches[batch].kept[picture] = rows
        self._in_a_row = 0

    def end(self, batch: str, answered: bool) -> None:
        self._batches.pop(batch, None)
        if answered:
            self._in_a_row = 0

    def deaths(self) -> int:
        return self._deaths
