"""The native calls, for the published description. What they take stands in `fields`, what they do in `native`."""

from __future__ import annotations

from ..errors import (
    BadOption,
    BadSetting,
    Busy,
    CannotServe,
    CheckpointError,
    DeadlinePassed,
    LoadFailed,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    OutOfMemory,
    QueueFull,
    TooManyRequests,
    every_error,
)
from ..jobs import Status
from .fields import FIELDS, LOOKING, OPTIONS, Schema
from .openapi import JSON, PICTURE, STRING, TEXT, Operation, json_or_text, list_of, named, record, schema_of

_LABELS = list_of(STRING)
LOADING = (TooManyRequests, QueueFull, CannotServe, LoadFailed, CheckpointError, OutOfMemory, DeadlinePassed)
_ASKING = {**FIELDS, **OPTIONS}
# What a request for a caption can fail with: all there is, but what is about addresses, unloading or the operator.
CAPTIONING = tuple({*every_error()} - {NotFound, MethodNotAllowed, Busy, BadSetting})


def _numbers(count: int | None = None) -> Schema:
    exactly = {} if count is None else {"minItems": count, "maxItems": count}
    return {"type": "array", "items": {"type": "number"}, **exactly}


_BOXES, _POLYGONS = list_of(_numbers(4)), list_of(list_of(_numbers()))
_PARTS: dict[str, Schema] = {
    "caption": STRING,
    "tags": _LABELS,
    "analysis": {"type": "object", "additionalProperties": list_of({"type": ["string", "null"]})},
}
SCHEMAS: dict[str, Schema] = {
    "Status": record(
        version=STRING,
        instance_id={**STRING, "description": "Another one for every start of the daemon."},
        uptime_s={"type": "number"},
        **schema_of(Status)["properties"],
    ),
    "Result": {
        "description": "A text, or places in pixels of the picture as its EXIF data turn it upright.",
        "anyOf": [
            STRING,
            record(bboxes=_BOXES, labels=_LABELS),
            record(quad_boxes=list_of(_numbers(8)), labels=_LABELS),
            record(polygons=_POLYGONS, labels=_LABELS),
            record(bboxes=_BOXES, bboxes_labels=_LABELS, polygons=_POLYGONS, polygons_labels=_LABELS),
            {"type": "object", "properties": _PARTS, "minProperties": 1, "additionalProperties": False},
        ],
    },
    "Task": record(**dict.fromkeys(("token", "sentence", "input", "answer", "explanation"), STRING)),
}
_IMAGE = "The picture's file in base64, a data: URI, or, where the operator lists its host, an http or https address."
_FILE: Schema = {"contentMediaType": "application/octet-stream"}
_BODY: dict[str, Schema] = {
    JSON: {
        "type": "object",
        "properties": {
            "image": {**STRING, "minLength": 1, "description": _IMAGE},
            **{name: field.in_json for name, field in _ASKING.items()},
        },
        "required": ["image"],
        "examples": [{"image": PICTURE, "prompt": "CAPTION"}],
    },
    "multipart/form-data": {
        "type": "object",
        "properties": {
            "image": {**_FILE, "description": "The picture's file; or base64 as text."},
            **{name: field.as_text for name, field in _ASKING.items()},
        },
        "required": ["image"],
    },
    "image/*": {**_FILE, "description": "The bare file, whatever type is declared. All else is in the query."},
}

_TAG = "native"
_MODEL = {"model": FIELDS["model"]}
_STATUS = json_or_text(named("Status"))
OPERATIONS = (
    Operation(
        "POST",
        "/process_image",
        _TAG,
        "Ask one prompt about one picture. A field in the body wins over one of its name in the query.",
        json_or_text(
            {
                "type": "object",
                "properties": {"result": named("Result"), "raw": STRING},
                "required": ["result"],
                "additionalProperties": False,
            }
        ),
        query=_ASKING,
        body=_BODY,
        raises=CAPTIONING,
        timings=True,
    ),
    Operation(
        "GET",
        "/prompts",
        _TAG,
        "The prompts that are advised for a checkpoint, or everything that is accepted.",
        json_or_text({"anyOf": [_LABELS, list_of(named("Task"))]}),
        query={**_MODEL, "all": LOOKING["all"]},
        raises=(BadOption, ModelNotFound),
    ),
    Operation("GET", "/model", _TAG, "The default checkpoint's name.", json_or_text(STRING)),
    Operation(
        "GET",
        "/status",
        _TAG,
        "State, queue, load progress, processes and memory.",
        _STATUS,
        query={"request_id": LOOKING["request_id"]},
    ),
    Operation(
        "POST",
        "/load",
        _TAG,
        "Load a checkpoint ahead of time; the answer comes when it is there.",
        _STATUS,
        query={**_MODEL, "keep_alive": FIELDS["keep_alive"]},
        raises=(BadOption, ModelNotFound, *LOADING),
    ),
    Operation(
        "POST",
        "/unload",
        _TAG,
        "Give the device back now.",
        _STATUS,
        query={"force": LOOKING["force"]},
        raises=(BadOption, Busy, TooManyRequests, CannotServe, DeadlinePassed),
    ),
    Operation(
        "GET",
        "/health",
        _TAG,
        "Whether the process can accept work; asleep is healthy.",
        json_or_text(record(status={"const": "ok"})),
        raises=(CannotServe,),
        is_open=True,
    ),
    Operation(
        "GET",
        "/ready",
        _TAG,
        "Whether it can serve; asleep counts.",
        json_or_text(record(status={"const": "ready"}, state=STRING)),
        raises=(CannotServe, LoadFailed),
        is_open=True,
    ),
    Operation("GET", "/metrics", _TAG, "Counters and gauges in Prometheus' text format.", {TEXT: STRING}),
    Operation("GET", "/openapi.json", _TAG, "This document.", {JSON: {"type": "object"}}, is_open=True),
)
