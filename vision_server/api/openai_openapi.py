"""OpenAI's calls, for the published description: what of them is understood here. All other fields are ignored."""

from __future__ import annotations

from ..errors import ModelNotFound
from ..settings import DEFAULT_MODEL
from .chats import MAX_IMAGES
from .fields import CHAT, FIELDS, OPTIONS, Schema
from .native_openapi import CAPTIONING
from .openai import OURS
from .openai_replies import EVENTS
from .openapi import (
    COUNT,
    JSON,
    OPENAI_ERROR,
    PICTURE,
    STRING,
    STRING_OR_NULL,
    InPath,
    Operation,
    list_of,
    named,
    record,
)

_FINISH: Schema = {"enum": ["stop", "length"]}
_TAG = "OpenAI"

SCHEMAS: dict[str, Schema] = {
    OPENAI_ERROR: record(
        error=record(
            message={**STRING, "description": "What is wrong and what to do."},
            type=STRING,
            param=STRING_OR_NULL,
            code=STRING,
        )
    ),
    "OpenAIModel": record(id=STRING, object={"const": "model"}, created=COUNT, owned_by=STRING),
    "OpenAICompletion": record(
        id=STRING,
        object={"const": "chat.completion"},
        created=COUNT,
        model=STRING,
        choices=list_of(
            record(
                index=COUNT,
                message=record(role={"const": "assistant"}, content=STRING),
                logprobs={"type": "null"},
                finish_reason=_FINISH,
            )
        ),
        usage=record(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT),
    ),
}
_URL: Schema = {**STRING, "minLength": 1, "description": "A data: URI; where its host is listed, an address."}
_PART: Schema = {
    "anyOf": [
        {"type": "object", "properties": {"type": {"const": "text"}, "text": STRING}, "required": ["type", "text"]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "image_url"},
                "image_url": {"anyOf": [{"type": "object", "properties": {"url": _URL}, "required": ["url"]}, _URL]},
            },
            "required": ["type", "image_url"],
        },
    ]
}
_MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {**STRING, "examples": ["user"]},
        "content": {"anyOf": [STRING, {"type": "array", "items": _PART, "maxItems": MAX_IMAGES}]},
    },
    "required": ["role", "content"],
}
_CHAT: Schema = {
    "type": "object",
    "properties": {
        "messages": {
            "type": "array",
            "items": _MESSAGE,
            "minItems": 1,
            "description": "The last message of the user counts: its text says the prompt, such as <OD> or "
            "<CAPTION_TO_PHRASE_GROUNDING> a red car; one answer for each of its pictures, an empty line between.",
        },
        "model": FIELDS["model"].in_json,
        **{name: field.in_json for name, field in CHAT.items()},
        "stream_options": {
            "anyOf": [{"type": "object", "properties": {"include_usage": {"type": "boolean"}}}, {"type": "null"}]
        },
        "response_format": {
            "anyOf": [
                {"type": "null"},
                {"type": "object", "properties": {"type": {"enum": ["text", "json_object"]}}, "required": ["type"]},
                {
                    "type": "object",
                    "properties": {
                        "type": {"const": "json_schema"},
                        "json_schema": {"type": "object", "properties": {"schema": {"type": "object"}}},
                    },
                    "required": ["type", "json_schema"],
                },
            ],
            "description": "Give every answer as JSON. A mere text is an object's `result`, or the schema's only text.",
        },
        **{name: {**OPTIONS, **FIELDS}[name].in_json for name in OURS},
    },
    "required": ["messages"],
    "examples": [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "<CAPTION>"},
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
                    ],
                }
            ]
        }
    ],
}
OPERATIONS = (
    Operation(
        "POST",
        "/v1/chat/completions",
        _TAG,
        "Ask one prompt about each picture of the last message. Without a picture the answer says so.",
        {
            JSON: named("OpenAICompletion"),
            EVENTS: {"description": "With `stream`: chat.completion.chunk objects, then [DONE]."},
        },
        body={JSON: _CHAT},
        raises=CAPTIONING,
        error=OPENAI_ERROR,
    ),
    Operation(
        "GET",
        "/v1/models",
        _TAG,
        "The served checkpoints, the default first.",
        {JSON: record(object={"const": "list"}, data=list_of(named("OpenAIModel")))},
        error=OPENAI_ERROR,
    ),
    Operation(
        "GET",
        "/v1/models/{id}",
        _TAG,
        "One of them, by any name it answers to.",
        {JSON: named("OpenAIModel")},
        raises=(ModelNotFound,),
        path_parameters={"id": InPath("A checkpoint's name, repository or alias.", DEFAULT_MODEL)},
        error=OPENAI_ERROR,
    ),
)
