"""What the benchmarks against a reference share: measuring in pairs, medians, the table, and the list as JSON."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Row:
    """`ours` against `reference` in `unit`: a rate ("captions/s") is better where it is higher, all else where lower.
    For an absolute limit `reference` is the limit."""

    name: str
    ours: float
    reference: float
    unit: str

    @property
    def ratio(self) -> float:
        """Above 1 where ours is better."""
        return self.ours / self.reference if self.unit.endswith("/s") else self.reference / self.ours

    def as_json(self) -> dict[str, Any]:
        values = {"name": self.name, "ours": _rounded(self.ours), "reference": _rounded(self.reference)}
        return {**values, "unit": self.unit, "ratio": _rounded(self.ratio)}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def median_row(name: str, unit: str, pairs: Iterable[tuple[float, float]]) -> Row:
    """The row of the medians over (ours, reference) pairs."""
    ours, reference = zip(*pairs, strict=True)
    return Row(name, statistics.median(ours), statistics.median(reference), unit)


def percentile(values: Sequence[float], percent: int) -> float:
    """The least of the values that so many of a hundred do not exceed."""
    return sorted(values)[math.ceil(percent * len(values) / 100) - 1]


def in_turns(pairs: int, ours: Callable[[int], T], reference: Callable[[int], U]) -> list[tuple[T, U]]:
    """(ours, reference) for the numbers 0 to `pairs` - 1, one straight after the other; who goes first alternates, so
    that a machine that grows slower or faster in between favours neither."""
    found = []
    for number in range(pairs):
        if number % 2:
            other = reference(number)
            found.append((ours(number), other))
        else:
            found.append((ours(number), reference(number)))
    return found


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", type=Path, help="write the rows there, and the table beside it as .md", metavar="FILE"
    )


def at_least_one(text: str) -> int:
    """The type of a flag that counts."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| what | ours | reference | unit | ratio |", "|---|---|---|---|---|"]
    lines += [f"| {row.name} | {row.ours:.4g} | {row.reference:.4g} | {row.unit} | {row.ratio:.2f} |" for row in rows]
    return "\n".join(lines) + "\n"


def publish(rows: Sequence[Row], about: dict[str, Any], path: Path | None) -> None:
    """Print the table; with a `path`, write the rows there as a list, and beside it the table with what is `about` the
    machine, the versions and the command."""
    sys.stdout.write(table(rows))
    if path is None:
        return
    path.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(f"{notes(about)}\n{table(rows)}", encoding="utf-8")


def notes(about: dict[str, Any]) -> str:
    """What a result is about, one line each."""
    return "".join(f"- {name}: {_words(value)}\n" for name, value in about.items())


def _words(value: Any) -> str:
    return ", ".join(f"{name} {one}" for name, one in value.items()) if isinstance(value, dict) else str(value)
