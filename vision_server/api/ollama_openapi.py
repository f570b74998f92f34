"""Ollama's calls, for the published description: what of them is understood here. All other fields are ignored."""

from __future__ import annotations

from ..errors import BodyTooSlow, ModelNotFound, TooLarge
from ..settings import DEFAULT_MODEL
from .chats import MAX_IMAGES
from .fields import CHAT, FIELDS, OLLAMA_OPTIONS, OPTIONS, Schema
from .native_openapi import CAPTIONING
from .ollama_replies import LINES
from .openapi import COUNT, JSON, PICTURE, PLAIN_ERROR, STRING, STRING_OR_NULL, Operation, list_of, named, record

_TEXTS = list_of(STRING)
_TAG = "Ollama"

_DETAILS = record(
    **dict.fromkeys(("parent_model", "format", "family", "parameter_size", "quantization_level"), STRING),
    families=_TEXTS,
)
_CARD = {"name": STRING, "model": STRING, "digest": STRING, "details": _DETAILS, "size": COUNT}
_MESSAGE = record(role={"const": "assistant"}, content=STRING)
_FIGURES = dict.fromkeys(
    (*("total_duration", "load_duration", "prompt_eval_count"), "prompt_eval_duration", "eval_count", "eval_duration"),
    COUNT,
)


def _answer(said: dict[str, Schema]) -> Schema:
    """The figures, durations in nanoseconds, are missing where a model was only loaded or unloaded."""
    common = {"model": STRING, "created_at": STRING, **said, "done": {"const": True}}
    whole = {**common, "done_reason": {"enum": ["stop", "length"]}, **_FIGURES}
    return {"anyOf": [record(**whole), record(**common, done_reason={"enum": ["load", "unload"]})]}


SCHEMAS: dict[str, Schema] = {
    "OllamaGenerated": _answer({"response": STRING}),
    "OllamaMessage": _answer({"message": _MESSAGE}),
    "OllamaModel": record(**_CARD, modified_at=STRING, capabilities=_TEXTS),
    "OllamaRunning": record(**_CARD, size_vram=COUNT, expires_at=STRING, context_length=COUNT),
    "OllamaShown": record(
        **dict.fromkeys(("modelfile", "parameters", "template", "modified_at"), STRING),
        details=_DETAILS,
        model_info={"type": "object"},
        capabilities=_TEXTS,
    ),
}
_IMAGES: Schema = {
    "type": ["array", "null"],
    "items": {**STRING, "minLength": 1},
    "maxItems": MAX_IMAGES,
    "description": "Pictures' files in base64; one answer for each, an empty line between.",
}
_SAYS_PROMPT = "The prompt, such as <OD> or <CAPTION_TO_PHRASE_GROUNDING> a red car; any other text gets the default."
_SYSTEM: Schema = {**STRING_OR_NULL, "description": "May say the prompt where the text says none."}
_COMMON: dict[str, Schema] = {
    "model": FIELDS["model"].in_json,
    "stream": {**CHAT["stream"].in_json, "default": True},
    "format": {
        "anyOf": [{"enum": ["", "json", None]}, {"type": "object"}],
        "description": "Give every answer as JSON. A mere text is an object's `result`, or the schema's only text.",
    },
    "options": {
        "type": ["object", "null"],
        "properties": {name: field.in_json for name, field in {**OLLAMA_OPTIONS, **OPTIONS}.items()},
    },
    **{name: FIELDS[name].in_json for name in ("keep_alive", "text_input", "region")},
}
_GENERATE: Schema = {
    "type": "object",
    "properties": {
        "prompt": {**STRING_OR_NULL, "description": _SAYS_PROMPT},
        "images": _IMAGES,
        "system": _SYSTEM,
        **_COMMON,
    },
    "examples": [{"prompt": "<CAPTION>", "images": [PICTURE], "stream": False}],
}
_CHAT: Schema = {
    "type": "object",
    "properties": {
        "messages": {
            "type": ["array", "null"],
            "items": {
                "type": "object",
                "properties": {"role": STRING, "content": STRING_OR_NULL, "images": _IMAGES},
                "required": ["role"],
            },
            "description": f"The last message of the user counts. {_SAYS_PROMPT}",
        },
        **_COMMON,
    },
    "examples": [
        {"messages": [{"role": "user", "content": "<CAPTION>", "images": [PICTURE]}], "stream": False},
    ],
}
_LINES: Schema = {"description": "With `stream`, the default: an object on each line; the last one is `done`."}


def _asking(path: str, summary: str, answer: str, body: Schema) -> Operation:
    answers = {JSON: named(answer), LINES: _LINES}
    return Operation("POST", path, _TAG, summary, answers, body={JSON: body}, raises=CAPTIONING, error=PLAIN_ERROR)


def _looking(path: str, summary: str, answer: Schema) -> Operation:
    return Operation("GET", path, _TAG, summary, {JSON: answer}, error=PLAIN_ERROR)


def _models(name: str) -> Schema:
    return record(models=list_of(named(name)))


OPERATIONS = (
    _asking(
        "/api/generate",
        "Ask one prompt about each picture. Without prompt and pictures the model is loaded, with `keep_alive` 0 "
        "unloaded.",
        "OllamaGenerated",
        _GENERATE,
    ),
    _asking(
        "/api/chat",
        "The same about the last message. Without messages the model is loaded, with `keep_alive` 0 unloaded.",
        "OllamaMessage",
        _CHAT,
    ),
    _looking("/api/tags", "The served checkpoints, the default first.", _models("OllamaModel")),
    _looking("/api/ps", "The one that is loaded, what it takes and until when.", _models("OllamaRunning")),
    Operation(
        "POST",
        "/api/show",
        _TAG,
        "What is known of one of them.",
        {JSON: named("OllamaShown")},
        body={
            JSON: {
                "type": "object",
                "properties": {"model": {**STRING, "minLength": 1}, "name": {**STRING, "minLength": 1}},
                "anyOf": [{"required": ["model"]}, {"required": ["name"]}],
                "examples": [{"model": DEFAULT_MODEL}],
            }
        },
        raises=(ModelNotFound, BodyTooSlow, TooLarge),
        error=PLAIN_ERROR,
    ),
    _looking("/api/version", "The version of this server.", record(version=STRING)),
)
