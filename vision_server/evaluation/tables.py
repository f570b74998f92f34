"""Figures and comparisons as Markdown tables, which are as readable in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vision_server.evaluation.comparison import Comparison, Difference
from vision_server.evaluation.measures import LESS_IS_BETTER, SHOWN

_PLAIN = ("cider", "iou")  # shown as numbers; all else are shares
_IN_WORDS = "(in words)"  # the prompts that are questions of a person's own


def table(figures: Mapping[str, Mapping[str, float | None]]) -> str:
    """A row for each prompt, a column for each measure that any of them has."""
    names = [name for name in SHOWN if any(name in row for row in figures.values())]
    rows = [["prompt", "questions", *(SHOWN[name] for name in names)]]
    for prompt, row in figures.items():
        rows.append([prompt or _IN_WORDS, f"{row['questions']:.0f}", *(_shown(name, row.get(name)) for name in names)])
    return _aligned(rows)


def comparison_table(compared: Comparison, first: str, second: str) -> str:
    """A row for each prompt and measure; the last column says which is better, where that is clear."""
    rows = [["prompt", "measure", first, second, "difference", "95 % interval", "better"]]
    for one in compared.differences:
        signed = [_signed(one.name, value) for value in (one.second - one.first, one.low, one.high)]
        rows.append(
            [
                one.prompt or _IN_WORDS,
                SHOWN[one.name],
                *(_shown(one.name, value) for value in (one.first, one.second)),
                signed[0],
                f"{signed[1]} to {signed[2]}" if one.low is not None else "",
                _better(one, first, second),
            ]
        )
    left = f", {compared.left_out} that only one was asked left out" if compared.left_out else ""
    return f"{_aligned(rows)}{compared.questions} questions{left}.\n"


def _better(one: Difference, first: str, second: str) -> str:
    if not one.is_clear:
        return "not clear"
    return second if (one.second > one.first) is (one.name not in LESS_IS_BETTER) else first


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if name in _PLAIN else f"{value:.1%}"


def _signed(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:+.3f}" if name in _PLAIN else f"{100 * value:+.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "".join(f"| {line} |\n" if at != 1 else f"|-{line}-|\n" for at, line in enumerate(lines))
