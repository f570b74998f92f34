"""What a request may say beside its picture: one table of fields, their types and bounds.

The check (`requests`) reads values by it and the published description (`openapi`) shows it, so the two cannot differ.
A value comes in JSON, or as text from a form or a query; None, as JSON's null, is a field that is not there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import BadInput, BadOption, BadRequest
from ..jobs import Options

Schema = dict[str, Any]

_NEVER_S = -1.0
_MOST_S = 1e9
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = r"-?([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+"
_WHOLE = r"[0-9]+"
_DECIMAL = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"
_DEFAULTS = asdict(Options())


@dataclass(frozen=True)
class Field:
    """`read(name, raw)` checks a value that is not None and returns it, or raises BadRequest, BadOption or BadInput.

    `plain` is its JSON Schema as a form or a query has it, and `other` what JSON may hold in its place.
    """

    meaning: str
    read: Callable[[str, object], Any]
    plain: Schema
    other: tuple[Schema, ...] = ()

    @property
    def in_json(self) -> Schema:
        return {"anyOf": [self.plain, *self.other, {"type": "null"}], "description": self.meaning}

    @property
    def as_text(self) -> Schema:
        return {**self.plain, "description": self.meaning}


def _number(raw: object, as_text: str = _DECIMAL) -> float:
    """NaN for everything that is no number, which no range includes."""
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        return math.nan
    if isinstance(raw, str) and not re.fullmatch(as_text, raw.strip()):
        return math.nan
    try:
        return float(raw)
    except OverflowError:
        return math.nan


def _whole(low: int, high: int, meaning: str, **more: Any) -> Field:
    def read(name: str, raw: object) -> int:
        value = _number(raw, _WHOLE)
        if not low <= value <= high or value != int(value):
            raise BadOption(f"{name} must be a whole number from {low} to {high}.")
        return int(value)

    plain = {"type": "integer", "minimum": low, "maximum": high, **more}
    return Field(meaning, read, plain, ({"type": "string", "pattern": f"^{_WHOLE}$"},))


def _between(low: float, high: float, meaning: str, **more: Any) -> Field:
    def read(name: str, raw: object) -> float:
        value = _number(raw)
        if not low <= value <= high:
            raise BadOption(f"{name} must be a number from {low:g} to {high:g}.")
        return value

    plain = {"type": "number", "minimum": low, "maximum": high, **more}
    return Field(meaning, read, plain, ({"type": "string", "pattern": f"^{_DECIMAL}$"},))


_SAID = {"true": True, "1": True, "false": False, "0": False, "": False}


def _switch(meaning: str, default: bool = False) -> Field:
    def read(name: str, raw: object) -> bool:
        if isinstance(raw, int | float) and raw in (0, 1):
            return bool(raw)
        value = _SAID.get(raw.lower()) if isinstance(raw, str) else None
        if value is None:
            raise BadOption(f"{name} must be true or false.")
        return value

    return Field(meaning, read, {"enum": [True, False, *_SAID], "default": default}, ({"enum": [0, 1]},))


def _text(meaning: str) -> Field:
    def read(name: str, raw: object) -> str:
        if not isinstance(raw, str):
            raise BadRequest(f"{name} must be text.")
        return raw

    return Field(meaning, read, {"type": "string"})


def _read_region(_: str, raw: object) -> str | tuple[float, ...] | None:
    if isinstance(raw, str):
        return raw if raw.strip() else None
    if isinstance(raw, list):
        return tuple(raw)
    raise BadInput("The region must be four numbers [x1, y1, x2, y2], or four <loc_n>.")


def _read_options(_: str, raw: object) -> dict[str, Any]:
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError):
            raise BadOption('The options are not JSON: send them like {"num_beams": 3}.') from None
    if not isinstance(raw, dict):
        raise BadOption('The options must be an object like {"num_beams": 3}.')
    if unknown := set(raw) - set(OPTIONS):
        raise BadOption(f"There is no option {min(unknown)[:40]!r}: the options are {', '.join(OPTIONS)}.")
    return raw


def _read_keep_alive(name: str, raw: object) -> float | None:
    """Seconds from a number, "300" or "5m"; 0 as given, anything negative is forever. None for an empty field."""
    if raw == "":
        return None
    text = raw.strip() if isinstance(raw, str) else ""
    if re.fullmatch(_DURATION, text):
        seconds = sum(float(count) * _UNIT_S[unit] for count, unit in re.findall(r"([0-9.]+)([a-z]+)", text))
        seconds = -seconds if text.startswith("-") else seconds
    else:
        seconds = _number(raw)
    if not math.isfinite(seconds) or seconds > _MOST_S:
        raise BadOption(f'{name} must be seconds, a time like "5m", 0 or -1 (forever).')
    return _NEVER_S if seconds < 0 else seconds


OPTIONS: Mapping[str, Field] = {
    "num_beams": _whole(1, 8, "Beams of the search; 1 is greedy.", default=_DEFAULTS["num_beams"]),
    "max_new_tokens": _whole(
        1, 4096, "Most tokens of an answer. Unless it is said, 1,024 or as many as the checkpoint has positions for."
    ),
    "no_repeat_ngram_size": _whole(
        0, 64, "No run of so many tokens comes twice; 0 for no such rule.", default=_DEFAULTS["no_repeat_ngram_size"]
    ),
    "length_penalty": _between(
        -8.0, 8.0, "Above 0 favours longer answers, below shorter ones.", default=_DEFAULTS["length_penalty"]
    ),
    "early_stopping": _switch("The search ends when every beam has an end.", default=_DEFAULTS["early_stopping"]),
}
FIELDS: Mapping[str, Field] = {
    "prompt": _text("CAPTION, <OD>, ocr: with or without <>, in any letter case. GET /prompts lists them."),
    "text_input": _text("The text that a prompt such as CAPTION_TO_PHRASE_GROUNDING asks for."),
    "region": Field(
        "The box that a prompt such as REGION_TO_CATEGORY asks for, in pixels of the upright picture, "
        "or as four <loc_n>, n from 0 to 999.",
        _read_region,
        {"type": "string", "examples": ["10,20,300,400", "<loc_1><loc_2><loc_300><loc_400>"]},
        ({"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},),
    ),
    "options": Field(
        "How to decode. Each option may also be a field of its own.",
        _read_options,
        {"type": "string", "contentMediaType": "application/json"},
        (
            {
                "type": "object",
                "properties": {name: option.in_json for name, option in OPTIONS.items()},
                "additionalProperties": False,
            },
        ),
    ),
    "model": _text("Which of the served checkpoints, by name or repository, in any letter case."),
    "keep_alive": Field(
        "Idle time after this request: seconds, 5m, 1h30m; 0 for none, -1 for ever.",
        _read_keep_alive,
        {"type": "string", "pattern": f"^({_DURATION}|{_DECIMAL})?$"},
        ({"type": "number", "maximum": _MOST_S},),
    ),
    "parse": _switch("Cut PromptGen's mixed answers and analyses into their fields."),
    "raw": _switch("Give the generated text beside the result."),
}
# What calls without a picture take in their query, beside `model` and `keep_alive`.
LOOKING: Mapping[str, Field] = {
    "all": _switch("Everything that is accepted, each prompt explained."),
    "force": _switch("Finish what waits first, then unload."),
    "request_id": _text("Only what waits under this X-Request-Id is in `queue`."),
}
_CEILING = _whole(
    -2, (1 << 31) - 1, "Most tokens of an answer; below 1 or beyond what the checkpoint can say as if it were not said."
)
# What a chat says beside its messages and `model`, in OpenAI's words.
CHAT: Mapping[str, Field] = {
    "stream": _switch("Send the answer piece by piece."),
    "n": _whole(1, 8, "How many choices. They are alike, since the search for an answer throws no dice.", default=1),
    "max_tokens": _CEILING,
    "max_completion_tokens": _CEILING,
}
# Of Ollama's options the one that has no name of ours.
OLLAMA_OPTIONS: Mapping[str, Field] = {"num_predict": _CEILING}
_EVERY = {**FIELDS, **OPTIONS, **LOOKING, **CHAT, **OLLAMA_OPTIONS}


def read(fields: Mapping[str, Any], name: str) -> Any:
    """The field's value, None where it is missing. Raises as its `read`."""
    raw = fields.get(name)
    return None if raw is None else _EVERY[name].read(name, raw)
