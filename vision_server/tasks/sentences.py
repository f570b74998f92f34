"""The sentence that a task becomes: the person's text or region checked and filled in.

Text is refused, not cleaned, where it holds marks that the model reads as its own (`</s>`, `<loc_7>`, `<sep>`, ...) or
the token of a prompt: what cleaning would leave is not what the person asked. Only locations after a fine-tune's own
token pass. Not here: counting tokens, which is the engine's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import BadInput, PromptTooLong
from .regions import LOCATION, Region
from .registry import TASKS, Task

# The longest position table in use has 4,096 rows, and English has about four characters a token. This only keeps
# megabytes away from the tokenizer; the exact limit, in tokens, is the engine's.
MAX_TEXT_CHARS = 16_384

# What Florence-2's tokenizer turns into one id of its own: sentence marks, locations, structure. In a person's text
# these would break the sentence apart.
_MODEL_TOKEN = re.compile(
    r"</?s>|<pad>|<unk>|<mask>|<image>|<loc_[0-9]+>|<sep>|<and>"
    r"|</?(?:od|ocr|cap|ncap|dcap|grounding|seg|region_cap|region_to_desciption|proposal|poly)>"
)
_TASK_TOKEN = re.compile("|".join(re.escape(task.token) for task in TASKS), re.IGNORECASE)


def check_input(task: Task, text: str, region: str | Sequence[float] | None) -> None:
    """All that can be said of a task's input before the picture's size is known.

    Blank text is no text. A region may also come as the text, `<loc_1><loc_2><loc_3><loc_4>`, as the published examples
    have it. Raises BadInput or PromptTooLong.
    """
    _checked(task, text, region)


def sentence(task: Task, text: str, region: str | Sequence[float] | None, size: tuple[int, int]) -> str:
    """What the model is sent for `task` on a picture of `size` (width, height) pixels, upright.

    `text` is sent as it is, stripped; `region` is pixels [x1, y1, x2, y2] or four `<loc_n>`. Raises BadInput where an
    input is missing, superfluous or outside the picture, PromptTooLong where a text is hopelessly long.
    """
    text, chosen = _checked(task, text, region)
    # replace, not format: a person's text may hold braces.
    return task.sentence.replace("{input}", chosen.locations(size) if chosen else text)


def _checked(task: Task, text: str, region: str | Sequence[float] | None) -> tuple[str, Region | None]:
    text, chosen = _sort_input(task, text, region)
    if task.input == "region" and chosen is None:
        raise BadInput(f"{task.token} needs a region: send pixels [x1, y1, x2, y2], or four <loc_n>.")
    if task.input != "region" and chosen is not None:
        raise BadInput(f"{task.token} takes no region: leave it out.")
    if task.input == "text" and not text:
        raise BadInput(f"{task.token} needs a text: send one with the prompt.")
    if task.input in ("none", "region") and text:
        raise BadInput(f"{task.token} takes no text: leave it out.")
    if len(text) > MAX_TEXT_CHARS:
        raise PromptTooLong(f"The text has {len(text):,} characters; at most {MAX_TEXT_CHARS:,} can be sent.")
    _refuse_tokens(task, text)
    return text, chosen


def _sort_input(task: Task, text: str, region: str | Sequence[float] | None) -> tuple[str, Region | None]:
    text = text.strip()
    if isinstance(region, str) and not region.strip():
        region = None  # an empty field of a form
    if region is None and task.input == "region" and LOCATION.match(text):
        return "", Region.parse(text)
    return text, None if region is None else Region.parse(region)


def _refuse_tokens(task: Task, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput("The text holds half a surrogate pair, which is no character: send valid Unicode.") from None
    for mark in _MODEL_TOKEN.finditer(text):
        # A fine-tune may have been trained on questions with places in them; only its user can know.
        if not (task.input == "optional_text" and LOCATION.fullmatch(mark[0])):
            raise BadInput(f"The text holds {mark[0][:40]}, which the model reads as a mark of its own: take it out.")
    if prompt := _TASK_TOKEN.search(text):
        raise BadInput(f"The text holds the prompt {prompt[0]}: send one prompt, and the text without it.")
