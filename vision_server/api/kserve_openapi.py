"""KServe v2's calls, for the published description: what of them is understood here. All other fields are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import (
    BadOption,
    BodyTooSlow,
    Busy,
    CannotServe,
    DeadlinePassed,
    LoadFailed,
    ModelNotFound,
    TooLarge,
    TooManyRequests,
)
from .fields import FIELDS, LOOKING, OPTIONS, Schema
from .kserve import BINARY, DEFAULT_NAME, EXTENSIONS, PARAMETERS
from .native_openapi import CAPTIONING, LOADING
from .openapi import COUNT, JSON, PICTURE, PLAIN_ERROR, STRING, InPath, Operation, list_of, named, record
from .tensors import DATATYPE, IMAGE, INPUTS, JSON_LENGTH, MAX_BATCH, MAX_ID_CHARS, OUTPUT, TASK, TEXT, VERSION

_TAG = "KServe v2 (Triton)"
_SWITCH: Schema = {"type": "boolean"}
_ROWS: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_BATCH}
_SHAPE: Schema = {"type": "array", "items": _ROWS, "minItems": 2, "maxItems": 2, "description": "[n, 1]: n pictures."}
_STAT = record(count=COUNT, ns=COUNT)
_NAMED: Schema = {"const": DATATYPE}
_STATE: Schema = {"enum": ["READY", "UNAVAILABLE"]}
_STATS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
_MEANING = {
    IMAGE: "The picture's file: as bytes behind the JSON, or as base64 or a data: URI, there or in `data`.",
    TASK: "The prompt: <OD>, OD, or <CAPTION_TO_PHRASE_GROUNDING> a red car.",
    TEXT: "The text, or the region, that the prompt takes; empty for none.",
}


def _metadata(name: Schema) -> Schema:
    return list_of(record(name=name, datatype=_NAMED, shape=list_of({"type": "integer"})))


SCHEMAS: dict[str, Schema] = {
    "KServeServer": record(name=STRING, version=STRING, extensions=list_of({"enum": list(EXTENSIONS)})),
    "KServeModel": record(
        name=STRING,
        versions=list_of({"const": VERSION}),
        platform=STRING,
        inputs=_metadata({"enum": list(INPUTS)}),
        outputs=_metadata({"const": OUTPUT}),
    ),
    "KServeConfig": record(
        name=STRING,
        platform=STRING,
        backend=STRING,
        max_batch_size=COUNT,
        input=list_of(record(name={"enum": list(INPUTS)}, data_type=STRING, dims=list_of(COUNT), optional=_SWITCH)),
        output=list_of(record(name={"const": OUTPUT}, data_type=STRING, dims=list_of(COUNT))),
    ),
    "KServeAnswer": {
        **record(
            model_name=STRING,
            model_version={"const": VERSION},
            id=STRING,
            outputs=list_of(
                record(
                    name={"const": OUTPUT},
                    datatype=_NAMED,
                    shape=_SHAPE,
                    data=list_of({**STRING, "contentMediaType": JSON, "examples": ['{"<CAPTION>": "a red car"}']}),
                )
            ),
        ),
        "required": ["model_name", "model_version", "outputs"],
    },
    "KServeStatistics": record(
        model_stats=list_of(
            record(
                name=STRING,
                version={"const": VERSION},
                last_inference={**COUNT, "description": "Milliseconds since 1970; 0 for never."},
                inference_count={**COUNT, "description": "Pictures that were answered about."},
                execution_count=COUNT,
                inference_stats=record(**dict.fromkeys(_STATS, _STAT)),
                batch_stats=list_of({"type": "object"}),
            )
        )
    ),
}


def _input(name: str) -> Schema:
    return {
        "type": "object",
        "description": _MEANING[name],
        "properties": {
            "name": {"const": name},
            "datatype": _NAMED,
            "shape": _SHAPE,
            "data": list_of(STRING),
            "parameters": {
                "type": "object",
                "properties": {
                    "binary_data_size": {**COUNT, "description": "In place of `data`: its bytes behind the JSON."}
                },
            },
        },
        "required": ["name", "datatype", "shape"],
    }


_INFERENCE: Schema = {
    "type": "object",
    "properties": {
        "id": {**STRING, "maxLength": MAX_ID_CHARS, "description": "Comes back with the answer."},
        "inputs": {
            "type": "array",
            "description": f"{IMAGE}, {TASK} and, where the prompt takes one, {TEXT}: one element for each picture.",
            "items": {"oneOf": [_input(name) for name in INPUTS]},
            "minItems": 2,
            "maxItems": 3,
        },
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"const": OUTPUT},
                    "parameters": {"type": "object", "properties": {"binary_data": _SWITCH}},
                },
                "required": ["name"],
            },
            "maxItems": 1,
        },
        "parameters": {
            "type": "object",
            "properties": {
                "binary_data_output": {
                    **_SWITCH,
                    "description": "The answers come as bytes behind the JSON.",
                    "default": False,
                },
                **{name: {**OPTIONS, **FIELDS}[name].in_json for name in PARAMETERS},
            },
        },
    },
    "required": ["inputs"],
    "examples": [
        {
            "inputs": [
                {"name": IMAGE, "datatype": DATATYPE, "shape": [1, 1], "data": [PICTURE]},
                {"name": TASK, "datatype": DATATYPE, "shape": [1, 1], "data": ["<CAPTION>"]},
            ]
        }
    ],
}
_BINARY: Schema = {
    "contentMediaType": BINARY,
    "description": f"The JSON, whose length the header {JSON_LENGTH} says, and the elements of the tensors behind it: "
    "each with its length before it in four bytes, the lowest first.",
}
_HEADERS: dict[str, Schema] = {
    JSON_LENGTH: {
        "description": "How many bytes of the body are JSON, where the elements of the tensors stand behind it.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_MODEL = {
    "model": InPath(f"A checkpoint's name, repository or alias; {DEFAULT_NAME} is the default one.", DEFAULT_NAME)
}
_VERSION = {"version": InPath("There is no other.", VERSION)}


def _about_a_model(
    method: str, below: str, summary: str, answer: Mapping[str, Schema], **more: Any
) -> tuple[Operation, Operation]:
    """One call, without and with the version in its path."""
    raises = (ModelNotFound, *more.pop("raises", ()))
    return (
        Operation(
            *(method, f"/v2/models/{{model}}{below}", _TAG, summary, answer),
            **{"raises": raises, "path_parameters": _MODEL, "error": PLAIN_ERROR, **more},
        ),
        Operation(
            *(method, f"/v2/models/{{model}}/versions/{{version}}{below}", _TAG, summary, answer),
            **{"raises": raises, "path_parameters": {**_MODEL, **_VERSION}, "error": PLAIN_ERROR, **more},
        ),
    )


_DONE = {JSON: record()}
OPERATIONS = (
    Operation(
        "GET",
        "/v2",
        _TAG,
        "The server's name, version and extensions.",
        {JSON: named("KServeServer")},
        error=PLAIN_ERROR,
    ),
    Operation(
        "GET",
        "/v2/health/live",
        _TAG,
        "Whether the process can accept work.",
        {JSON: record(live={"const": True})},
        raises=(CannotServe,),
        is_open=True,
        error=PLAIN_ERROR,
    ),
    Operation(
        "GET",
        "/v2/health/ready",
        _TAG,
        "Whether it can serve; asleep counts.",
        {JSON: record(ready={"const": True})},
        raises=(CannotServe, LoadFailed),
        is_open=True,
        error=PLAIN_ERROR,
    ),
    *_about_a_model("GET", "", "A model's inputs and outputs.", {JSON: named("KServeModel")}),
    *_about_a_model(
        "GET",
        "/ready",
        "Whether a model can serve; asleep counts.",
        {JSON: record(name=STRING, ready={"const": True})},
        raises=(CannotServe, LoadFailed),
    ),
    *_about_a_model(
        "GET", "/config", "The inputs and outputs as Triton's configuration.", {JSON: named("KServeConfig")}
    ),
    *_about_a_model(
        "GET",
        "/stats",
        "How many requests of a model succeeded and failed, and their times.",
        {JSON: named("KServeStatistics")},
    ),
    Operation(
        "GET",
        "/v2/models/stats",
        _TAG,
        "The same of every model.",
        {JSON: named("KServeStatistics")},
        error=PLAIN_ERROR,
    ),
    *_about_a_model(
        "POST",
        "/infer",
        f"Ask one prompt about each picture; {OUTPUT} has an object of the prompt and its answer for each.",
        {JSON: named("KServeAnswer"), BINARY: _BINARY},
        body={JSON: _INFERENCE, BINARY: _BINARY},
        headers=_HEADERS,
        raises=CAPTIONING,
        timings=True,
    ),
    Operation(
        "POST",
        "/v2/repository/index",
        _TAG,
        "Every model and whether it can serve; with `ready` only those.",
        {JSON: list_of(record(name=STRING, version={"const": VERSION}, state=_STATE, reason=STRING))},
        body={JSON: {"type": "object", "properties": {"ready": _SWITCH}, "examples": [{"ready": True}]}},
        needs_body=False,
        raises=(BodyTooSlow, TooLarge),
        error=PLAIN_ERROR,
    ),
    Operation(
        "POST",
        "/v2/repository/models/{model}/load",
        _TAG,
        "Load a checkpoint ahead of time; the answer comes when it is there.",
        _DONE,
        raises=(ModelNotFound, BodyTooSlow, TooLarge, *LOADING),
        path_parameters=_MODEL,
        error=PLAIN_ERROR,
    ),
    Operation(
        "POST",
        "/v2/repository/models/{model}/unload",
        _TAG,
        "Give the device back now, where this model has it.",
        _DONE,
        query={"force": LOOKING["force"]},
        raises=(ModelNotFound, BadOption, Busy, TooManyRequests, CannotServe, DeadlinePassed),
        path_parameters=_MODEL,
        error=PLAIN_ERROR,
    ),
)
