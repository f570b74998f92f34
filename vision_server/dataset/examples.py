"""What a row becomes for a picture that is there: a sentence, and the text that answers it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Size = tuple[int, int]


@dataclass(frozen=True)
class Example:
    """`sentence` is what the model is sent and `answer` the text that it is to generate, places as `<loc_n>`.

    `token` is the prompt that the sentence was made of, "" for a free one; `size` the width and height of the upright
    picture in pixels; `where` says in which file and line it stands.
    """

    where: str
    picture: Path
    size: Size
    token: str
    sentence: str
    answer: str
