"""What Florence-2 can be asked: one row per task.

A row says what the model is sent, what a person must add to it (nothing, a text, a region) and what kind of answer
comes back. Microsoft's checkpoints were trained on English sentences, which stand in place of the token; PromptGen and
most fine-tunes were trained on the token itself, spelled as it is here, so that one is sent literally.

Not here: how a sentence is filled in (`sentences`) and how an answer is read (`answers`, `fields`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..errors import UnknownPrompt

Input = Literal["none", "text", "region", "optional_text"]
Answer = Literal["text", "boxes", "proposals", "quads", "polygons", "boxes_or_polygons"]
Field = Literal["caption", "tags", "analysis"]


@dataclass(frozen=True)
class Task:
    """One thing a checkpoint can be asked.

    `token` is how it is called, letter case included; `sentence` is what the model is sent, with `{input}` where the
    person's text or region goes; `input` and `answer` are kinds; `explanation` is one line for people; `fields` are the
    parts that a text answer can be cut into.
    """

    token: str
    sentence: str
    input: Input
    answer: Answer
    explanation: str
    fields: tuple[Field, ...] = ()


_MAPPED = (
    Task("<CAPTION>", "What does the image describe?", "none", "text", "One short sentence about the picture."),
    Task(
        "<DETAILED_CAPTION>",
        "Describe in detail what is shown in the image.",
        "none",
        "text",
        "A few sentences about the picture.",
    ),
    Task(
        "<MORE_DETAILED_CAPTION>",
        "Describe with a paragraph what is shown in the image.",
        "none",
        "text",
        "A paragraph about the picture.",
    ),
    Task("<OCR>", "What is the text in the image?", "none", "text", "The text that can be read in the picture."),
    Task(
        "<OCR_WITH_REGION>",
        "What is the text in the image, with regions?",
        "none",
        "quads",
        "Each piece of text with the four corners it stands in.",
    ),
    Task(
        "<OD>",
        "Locate the objects with category name in the image.",
        "none",
        "boxes",
        "Objects as boxes with their category.",
    ),
    Task(
        "<DENSE_REGION_CAPTION>",
        "Locate the objects in the image, with their descriptions.",
        "none",
        "boxes",
        "Objects as boxes, each with a short description.",
    ),
    Task(
        "<REGION_PROPOSAL>",
        "Locate the region proposals in the image.",
        "none",
        "proposals",
        "Boxes around whatever stands out, without names.",
    ),
    Task(
        "<CAPTION_TO_PHRASE_GROUNDING>",
        "Locate the phrases in the caption: {input}",
        "text",
        "boxes",
        "The text is a caption; its phrases come back as boxes.",
    ),
    Task(
        "<REFERRING_EXPRESSION_SEGMENTATION>",
        "Locate {input} in the image with mask",
        "text",
        "polygons",
        "The text names one thing; its outline comes back.",
    ),
    Task(
        "<REGION_TO_SEGMENTATION>",
        "What is the polygon mask of region {input}",
        "region",
        "polygons",
        "The outline of what lies in the region.",
    ),
    Task(
        "<OPEN_VOCABULARY_DETECTION>",
        "Locate {input} in the image.",
        "text",
        "boxes_or_polygons",
        "The text names a kind of thing; boxes or outlines of it come back.",
    ),
    Task(
        "<REGION_TO_CATEGORY>",
        "What is the region {input}?",
        "region",
        "text",
        "The category of what lies in the region.",
    ),
    Task(
        "<REGION_TO_DESCRIPTION>",
        "What does the region {input} describe?",
        "region",
        "text",
        "A short description of what lies in the region.",
    ),
    Task(
        "<REGION_TO_OCR>",
        "What text is in the region {input}?",
        "region",
        "text",
        "The text that stands in the region.",
    ),
)


def _promptgen(token: str, explanation: str, *fields: Field) -> Task:
    return Task(token, token, "none", "text", f"PromptGen: {explanation}", fields)


_PROMPTGEN = (
    _promptgen("<GENERATE_TAGS>", "comma-separated tags.", "tags"),
    _promptgen("<MIXED_CAPTION>", "a caption, then tags.", "caption", "tags"),
    _promptgen("<MIXED_CAPTION_PLUS>", "a caption, then tags, then an analysis.", "caption", "tags", "analysis"),
    _promptgen("<MIX_CAPTION>", "as MIXED_CAPTION, spelled as in its author's tools.", "caption", "tags"),
    _promptgen(
        "<MIX_CAPTION_PLUS>", "as MIXED_CAPTION_PLUS, spelled as in its author's tools.", "caption", "tags", "analysis"
    ),
    _promptgen("<ANALYZE>", "composition and subjects as `key: value` pairs.", "analysis"),
    _promptgen("<GENERATE_PROMPT>", "comma-separated tags (version 1).", "tags"),
)


def _question(token: str, explanation: str) -> Task:
    return Task(token, token + "{input}", "text", "text", f"Fine-tunes: {explanation}")


_QUESTIONS = (
    _question("<VQA>", "the text is a question about the picture."),
    _question("<DocVQA>", "the text is a question about a document."),
    _question("<DESCRIPTION>", "the text says what to describe."),
)

TASKS: tuple[Task, ...] = (*_MAPPED, *_PROMPTGEN, *_QUESTIONS)
"""Every row, in the order in which people are shown them."""

STOCK: tuple[str, ...] = tuple(task.token for task in _MAPPED)
"""The tokens of the tasks that Microsoft's checkpoints were trained for."""


def _key(name: str) -> str:
    name = name.strip()
    if name.startswith("<") and name.endswith(">"):
        name = name[1:-1]
    return name.strip().casefold()


_BY_KEY = {_key(task.token): task for task in TASKS}
_BY_TOKEN = {task.token: task for task in TASKS}


def find(name: str) -> Task | None:
    """The row called `name`, with or without `<>`, in any letter case; None when there is none."""
    return _BY_KEY.get(_key(name))


def literal(token: str) -> Task:
    """A task that is no row: the token of a fine-tune, sent in exactly these letters, an optional text behind it."""
    return Task(
        token, token + "{input}", "optional_text", "text", "A prompt of this checkpoint, sent as it is spelled."
    )


def of_token(token: str) -> Task:
    """The task that a token stands for, letter case and all: its row, or a fine-tune's own token.

    `lookup(name, prompts).token` comes back here as the same task. Where `<vqa>` is a fine-tune's own spelling, it is
    not `<VQA>`.
    """
    return _BY_TOKEN.get(token) or literal(token)


def lookup(name: str, prompts: Iterable[str] = ()) -> Task:
    """The task that a person means by `name`: one of `prompts` (what the checkpoint was trained for), or any row.

    Both are compared without `<>` and letter case; the checkpoint's own spelling wins, since it is what the model has
    learned. Raises UnknownPrompt, which lists `prompts` (the stock ones if there are none).
    """
    prompts, key = tuple(prompts), _key(name)
    for token in prompts:
        if _key(token) == key:
            return of_token(token)
    if row := find(name):
        return row
    known = ", ".join(prompts or STOCK)
    raise UnknownPrompt(f"This prompt is not known. The prompts of this model are: {known}.")
