"""The text of a chat -> the prompt it asks for, the same way in every dialect that has only text to say it with.

A prompt is written out in the text (`<OD>`, or a bare `od` as all of it; `<CAPTION_TO_PHRASE_GROUNDING> a red car`),
or the setting `phrases` finds its words there; any other text is talk, and gets the default prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import BadSetting, UnknownPrompt
from ..served import Served
from ..settings import Settings
from ..tasks import Task, lookup

_TOKEN = re.compile(r"<[^<>]{1,200}>")
_LIKE_A_PROMPT = re.compile(r"<[A-Z][A-Z0-9_]*>")  # and not a placeholder such as <image>


def prompt_fields(text: str, model: Served, settings: Settings, system: str = "") -> dict[str, str]:
    """The field `prompt` and, where the prompt takes input, `text_input` or `region`, for `requests.to_request`.

    Input is what follows the prompt, or else stands before it. Where the text says none, `system`, the instructions
    that come with it, may: after `<VQA>` there, the text is the question. Raises UnknownPrompt where the text is
    nothing but a token that no prompt has.
    """
    text = text.strip()
    found = _spelled_out(text, model.prompts) or _phrased(text, model, settings)
    if found is None and _LIKE_A_PROMPT.fullmatch(text):
        lookup(text, model.prompts)  # raises, and lists what there is
    if found is None and system:
        found = _spelled_out(system.strip(), model.prompts) and _spelled_out(f"{system}\n{text}", model.prompts)
    return found or {"prompt": settings.default_prompt}


def named_prompt(name: str, text: str, model: Served, settings: Settings) -> dict[str, str]:
    """The same where one field is for the prompt and nothing else, and `text` is one for its input, which comes first.

    Raises UnknownPrompt, since nobody talks in such a field.
    """
    name = name.strip()
    found = _spelled_out(name, model.prompts) or _phrased(name, model, settings)
    if found is None:
        found = {"prompt": lookup(name or settings.default_prompt, model.prompts).token}
    if text.strip():
        found[_input_field(lookup(found["prompt"], model.prompts))] = text
    return found


def check_phrases(models: Sequence[Served], settings: Settings) -> None:
    """Raises BadSetting where `phrases` names a prompt that no model knows."""
    for phrase, said in settings.phrases:
        if not any(_spelled_out(said, model.prompts) for model in models):
            raise BadSetting(f"phrases: {phrase}: {said} is no prompt; write one such as <CAPTION>.")


def _spelled_out(text: str, prompts: Sequence[str]) -> dict[str, str] | None:
    if task := _known(text, prompts):
        return {"prompt": task.token}
    for match in _TOKEN.finditer(text):
        if task := _known(match[0], prompts):
            if task.input == "none":
                return {"prompt": task.token}
            said = text[match.end() :].strip() or text[: match.start()].strip()
            return {"prompt": task.token, _input_field(task): said}
    return None


def _input_field(task: Task) -> str:
    return "region" if task.input == "region" else "text_input"


def _phrased(text: str, model: Served, settings: Settings) -> dict[str, str] | None:
    """The longest phrase that the text holds, in any letter case, as whole words."""
    words = " ".join(text.split())
    found = [
        (len(phrase), said)
        for phrase, said in settings.phrases
        if re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", words, re.IGNORECASE)
    ]
    return _spelled_out(max(found)[1], model.prompts) or {"prompt": max(found)[1]} if found else None


def _known(name: str, prompts: Sequence[str]) -> Task | None:
    try:
        return lookup(name, prompts) if name else None
    except UnknownPrompt:
        return None
