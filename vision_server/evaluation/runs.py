"""One evaluation as a value and as a JSON file: who was asked, what was said of what is true, and the figures of it.

The answers are kept, so that two files can be compared, and figures counted anew, without asking anybody again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vision_server.errors import BadInput
from vision_server.evaluation.measures import Answered, Measure, measures
from vision_server.tasks import answer

_FORMAT = 1


@dataclass(frozen=True)
class Row:
    """`said` is the raw generated text; `true` are answers as `tasks.answer` gives them."""

    key: str
    picture: str
    prompt: str
    sentence: str
    size: tuple[int, int]
    said: str
    true: tuple[str | Mapping[str, Any], ...]

    def answered(self) -> Answered:
        return Answered(self.key, self.picture, self.size, answer(self.prompt, self.said, self.size), self.true)


@dataclass(frozen=True)
class Run:
    """`about` says what was asked how: model, adapter, data, device, dtype, beams, versions, seconds."""

    about: dict[str, Any]
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        adapter = self.about.get("adapter")
        return f"{self.about['model']} + {adapter}" if adapter else str(self.about["model"])

    def by_prompt(self) -> dict[str, list[Row]]:
        prompts: dict[str, list[Row]] = {}
        for row in self.rows:
            prompts.setdefault(row.prompt, []).append(row)
        return prompts


def measured(rows: Sequence[Row]) -> dict[str, Measure]:
    """Of rows of one prompt."""
    return measures(rows[0].prompt, [row.answered() for row in rows])


def figures(run: Run) -> dict[str, dict[str, float | None]]:
    """By prompt and by name: how many questions there are, and the value of each measure."""
    return {
        prompt: {"questions": len(rows), **{name: one.value() for name, one in measured(rows).items()}}
        for prompt, rows in run.by_prompt().items()
    }


def write(run: Run, path: Path) -> None:
    """Raises OSError."""
    value = {"format": _FORMAT, **run.about, "figures": figures(run), "answers": [asdict(row) for row in run.rows]}
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path) -> Run:
    """Raises BadInput for a file that `write` has not written."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(_row(**row) for row in value.pop("answers"))
        about = {name: one for name, one in value.items() if name not in ("format", "figures")}
        if value["format"] != _FORMAT or not rows or "model" not in about:
            raise ValueError
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({type(error).__name__}).") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{path} is not what --json of an evaluation has written.") from None
    return Run(about, rows)


def _row(size: Sequence[int], true: Sequence[Any], **rest: str) -> Row:
    width, height = map(int, size)
    if not true or not all(isinstance(value, str) for value in rest.values()):
        raise ValueError
    return Row(size=(width, height), true=tuple(true), **rest)
