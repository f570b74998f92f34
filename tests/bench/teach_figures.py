"""What `teach` has reached, counted from the answers that two evaluations have written. Not a benchmark.

Every difference has a 95 % interval from `evaluate`'s own comparison: a paired bootstrap over the pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from tests.bench.teach_lessons import FOUND, HATS, NEW, OLD, STYLE, STYLED, content, follows
from vision_server.evaluation.comparison import compare
from vision_server.evaluation.runs import Row, Run
from vision_server.outlines import agrees
from vision_server.tasks import Shape, shapes
from vision_server.training.scoring import BoxScore

LEAST_FOLLOWED, LEAST_RECALL = 0.95, 0.80
MOST_CONTENT_LOST, MOST_OLD_LOST = 0.03, 0.02


def figures(before: Run, after: Run) -> dict[str, Any]:
    """Shares between 0 and 1, of held-out scenes: `style` and `old` without hats, `hats` with some."""
    return {
        "style": {
            "scenes": len(rows_of(after, STYLE)),
            "followed": {name: _followed(rows_of(run, STYLE)) for name, run in _named(before, after)},
            "exact_content": _both(before, after, STYLE, STYLED, lambda row: content(row.said) == content(_true(row))),
        },
        "hats": {
            "scenes": len(rows_of(after, HATS, FOUND)),
            "found": {name: found(rows_of(run, HATS, FOUND)) for name, run in _named(before, after)},
            "exact_captions": _both(before, after, HATS, STYLED, _is_right),
        },
        "old": {
            "questions": len(rows_of(after, OLD)),
            "exact": _both(before, after, OLD, None, _is_right),
            "by_prompt": {
                token: _both(before, after, OLD, token, _is_right)
                for token in dict.fromkeys(row.prompt for row in rows_of(after, OLD))
            },
        },
    }


def missed(reached: dict[str, Any]) -> list[str]:
    """What the figures do not reach, in words; empty when all is well."""
    style, hats, old = reached["style"], reached["hats"], reached["old"]
    wanted = {
        f"the style is followed in {LEAST_FOLLOWED:.0%}": style["followed"]["after"] >= LEAST_FOLLOWED,
        f"exact content falls by {MOST_CONTENT_LOST:.0%} at most": _fall(style["exact_content"]) <= MOST_CONTENT_LOST,
        f"{LEAST_RECALL:.0%} of the hats are found": hats["found"]["after"]["recall"] >= LEAST_RECALL,
        f"the old prompts lose {MOST_OLD_LOST:.0%} at most": _fall(old["exact"]) <= MOST_OLD_LOST,
    }
    return [f"not reached: {what}" for what, is_so in wanted.items() if not is_so]


def table(reached: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    style, hats, old = reached["style"], reached["hats"], reached["old"]
    recall = {name: one["recall"] for name, one in hats["found"].items()}
    rows = [
        (f"the new style is followed, {style['scenes']} scenes", style["followed"]),
        ("its content is exact", style["exact_content"]),
        (f"of {hats['found']['after']['hats']} hats in {hats['scenes']} scenes are found", recall),
        ("captions with a hat are exact, in the new style", hats["exact_captions"]),
        (f"the {len(old['by_prompt'])} other prompts are answered right", old["exact"]),
    ]
    lines = ["| held-out scenes | before | after | 95 % of the difference |", "|---|---|---|---|"]
    for what, both in rows:
        between = f"{100 * both['low']:+.1f} to {100 * both['high']:+.1f}" if both.get("low") is not None else ""
        lines.append(f"| {what} | {both['before']:.1%} | {both['after']:.1%} | {between} |")
    return "\n".join(lines) + "\n"


def rows_of(run: Run, data: str, prompt: str | None = None) -> list[Row]:
    """The answers to the questions of one file, whose pictures carry its name."""
    stem = data.partition(".")[0]
    return [row for row in run.rows if row.picture.startswith(f"{stem}-") and prompt in (None, row.prompt)]


def found(rows: Iterable[Row]) -> dict[str, float]:
    """How many of the hats have a box with their name that overlaps by half, and how many such boxes have a hat."""
    score = BoxScore()
    for row in rows:
        asked = row.answered()
        score.add(_hats(asked.said), _hats(asked.true[0]), row.size)
    return {
        "hats": score.true,
        "recall": _share(score.hits / max(1, score.true)),
        "precision": _share(score.hits / max(1, score.said)),
    }


def _hats(result: Any) -> list[Shape]:
    return [one for one in shapes(result) if one.label == NEW]


def _followed(rows: list[Row]) -> float:
    return _share(sum(follows(row.said) for row in rows) / max(1, len(rows)))


def _is_right(row: Row) -> bool:
    """As `evaluate` counts it exact."""
    asked = row.answered()
    if isinstance(asked.said, str):
        return asked.said in asked.true
    return agrees(asked.said, asked.true[0], asked.size)


def _both(
    before: Run, after: Run, data: str, prompt: str | None, is_right: Callable[[Row], bool]
) -> dict[str, float | None]:
    """The share of right answers of both runs, and how far apart they are."""
    first, second = (
        Run(run.about, tuple(_judged(row, is_right) for row in rows_of(run, data, prompt))) for run in (before, after)
    )
    [exact] = [one for one in compare(first, second).differences if one.name == "exact"]
    values = {"before": exact.first, "after": exact.second, "low": exact.low, "high": exact.high}
    return {name: None if value is None else _share(value) for name, value in values.items()}


def _judged(row: Row, is_right: Callable[[Row], bool]) -> Row:
    """The verdict as an answer in words, so that `compare` counts it whatever the prompt is."""
    return replace(row, prompt="", said="right" if is_right(row) else "wrong", true=("right",))


def _true(row: Row) -> str:
    return str(row.true[0])


def _fall(both: dict[str, float]) -> float:
    return both["before"] - both["after"]


def _share(value: float) -> float:
    return round(value, 4)


def _named(before: Run, after: Run) -> tuple[tuple[str, Run], tuple[str, Run]]:
    return ("before", before), ("after", after)
