"""One row of a person's data, as it was read, and what it becomes for a picture of a known size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_server.dataset.examples import Example, Size
from vision_server.dataset.swift import Objects, fill
from vision_server.errors import BadInput
from vision_server.tasks import TASKS, Task, find, of_token, sentence, written
from vision_server.tasks.regions import BINS, LOCATION

_TOKEN = re.compile(r"\s*(<[A-Za-z][\w-]*>)\s*(.*?)\s*", re.DOTALL)
_BY_SENTENCE = {task.sentence: task for task in TASKS if task.input == "none"}


class EmptyAnswer(BadInput):
    """Nothing is said where something is asked for."""


@dataclass(frozen=True)
class Row:
    """`prompt` is a token (with its text behind it, perhaps) or a free question, `text` and `region` what it needs.

    `answer` is a text, with `<loc_n>` for places, or an object as the daemon answers it, in pixels. `objects` fill the
    placeholders of ms-swift's form.
    """

    where: str
    picture: Path
    prompt: str
    answer: str | Mapping[str, Any]
    text: str = ""
    region: str | Sequence[float] | None = None
    objects: Objects | None = None

    def example(self, size: Size) -> Example:
        """Raises BadInput for a prompt that cannot be sent so, places outside the picture and the like, EmptyAnswer
        for no text; where places are asked for, none at all is an answer."""
        prompt, answer = self.prompt, self.answer
        if self.objects is not None:
            if not isinstance(answer, str):
                raise BadInput("With objects the answer is a text in which they stand.")
            prompt, answer = fill(prompt, answer, self.objects, size)
        task, text = parsed(prompt)
        said = written(answer, size)
        for place in LOCATION.finditer(f"{prompt} {said}"):
            if int(place[1]) >= BINS:
                raise BadInput(
                    f"{place[0][:40]} is outside the picture: locations go from <loc_0> to <loc_{BINS - 1}>."
                )
        if not said.strip() and (task is None or task.answer == "text"):
            raise EmptyAnswer("The answer is empty.")
        if task is None:
            return Example(self.where, self.picture, size, "", prompt.strip(), said)
        asked = sentence(task, self.text or text, self.region, size)
        return Example(self.where, self.picture, size, task.token, asked, said)


def parsed(prompt: str) -> tuple[Task | None, str]:
    """The task that a prompt names, and the text behind its token; None for a question in a person's own words.

    `<OD>`, `od`, the sentence that stands for it, or a fine-tune's own `<TOKEN>`. Raises BadInput for an empty prompt.
    """
    bare = prompt.strip()
    if not bare:
        raise BadInput("There is no prompt: put one into the row, or say --prompt.")
    if task := _BY_SENTENCE.get(bare) or find(bare):
        return task, ""
    if (match := _TOKEN.fullmatch(bare)) and not LOCATION.match(bare):
        return find(match[1]) or of_token(match[1]), match[2]
    return None, ""
