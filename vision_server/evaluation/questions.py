"""What is asked and what is true: a person's data, in every form that `dataset` reads -> questions about pictures.

Rows that ask the same of the same picture are one question with several true answers, where those are texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vision_server.dataset import forms, pictures
from vision_server.dataset.rows import Row
from vision_server.errors import BadInput, VisionError
from vision_server.tasks import answer

Size = tuple[int, int]
Truth = str | Mapping[str, Any]

_MOST_NAMED = 5


@dataclass(frozen=True)
class Question:
    """`sentence` is what the model is sent, `token` the prompt that it was made of, "" for a question in words; `true`
    are right answers, as `tasks.answer` gives them; `size` is the upright picture's, in pixels."""

    picture: Path
    size: Size
    token: str
    sentence: str
    true: tuple[Truth, ...]

    @property
    def key(self) -> str:
        """The same for the same question, wherever the picture lies."""
        told = json.dumps([self.picture.name, self.size, self.token, self.sentence, self.true], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Read:
    """`faults` say where each row stands that cannot be asked, and why."""

    questions: list[Question]
    faults: list[str]


def read(sources: Sequence[Path], prompt: str = "") -> Read:
    """Of files and folders. `prompt` is asked where a row names none. Raises BadInput where one is not there."""
    for source in sources:
        if not source.exists():
            raise BadInput(f"There is no file or folder {source}.")
    found: dict[tuple[Path, str], Question] = {}
    sizes: dict[Path, Size] = {}
    faults: list[str] = []
    for row in (row for source in sources for row in forms.read(source, prompt)):
        if isinstance(row, forms.Fault):
            faults.append(f"{row.where}: {row.message}")
            continue
        try:
            one = _question(row, sizes)
        except VisionError as error:
            faults.append(f"{row.where}: {error}")
            continue
        before = found.setdefault((one.picture, one.sentence), one)
        if before is one:
            continue
        if isinstance(one.true[0], str):
            found[one.picture, one.sentence] = replace(before, true=(*before.true, *one.true))
        else:
            faults.append(f"{row.where}: the places of this question are told in another row, too.")
    return Read(list(found.values()), faults)


def told(faults: Sequence[str]) -> str:
    """How many rows cannot be asked, and the first of them."""
    more = len(faults) - _MOST_NAMED
    named = "\n  ".join(faults[:_MOST_NAMED])
    return f"{len(faults)} rows cannot be asked.\n  {named}{f' (and {more} more)' * (more > 0)}"


def _question(row: Row, sizes: dict[Path, Size]) -> Question:
    if row.picture not in sizes:
        sizes[row.picture] = pictures.size(row.picture)
    size = sizes[row.picture]
    example = row.example(size)
    true: Truth = answer(example.token, example.answer, size)
    if not isinstance(true, str) and not isinstance(row.answer, str):
        true = row.answer  # its pixels, as a person has them
    return Question(row.picture, size, example.token, example.sentence, (true,))


def fingerprint(questions: Sequence[Question]) -> str:
    """The same for the same questions with the same answers, in any order."""
    return hashlib.sha256("".join(sorted(one.key for one in questions)).encode()).hexdigest()[:16]
