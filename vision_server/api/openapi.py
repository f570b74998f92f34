"""What is published at /openapi.json: operations and their fields and errors -> an OpenAPI 3.1 document.

A dialect says what its calls are in a tuple of `Operation`, and `surface` joins them; a test compares those with the
routes. Fields come from `fields`, errors from the error tree. Nothing in the document depends on settings, so it may
be read without a key.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

from .. import __version__
from ..errors import BadRequest, Forbidden, Unauthorized, VisionError
from .fields import Field, Schema

JSON = "application/json"
TEXT = "text/plain"
PICTURE = "<base64>"  # stands in examples for a picture's file
OPENAI_ERROR = "OpenAIError"
PLAIN_ERROR = "PlainError"  # a sentence without a code
_ANY_CALL: tuple[type[VisionError], ...] = (BadRequest, Forbidden, VisionError)
_MEANING = {
    400: "Bad JSON, base64, option, input or prompt.",
    401: "The key is missing or wrong.",
    403: "The Host name or the Origin is refused.",
    404: "There is no such model.",
    408: "The body arrived too slowly.",
    409: "There is work; `force` finishes it first.",
    413: "The body or the picture is over the limit.",
    415: "Not a picture that is decoded here, or a broken one.",
    422: "An image address that is refused or gives no picture, or a side of 0 or beyond 16,384 pixels.",
    429: "The queue is full, or one client asks for too much.",
    500: "The server's own fault, or a worker that died twice with this request alone.",
    503: "It cannot serve: it is leaving, has no device, or the load failed.",
    504: "The request waited longer than the time limit.",
}
_ABOUT = """\
Captions, tags, text and places in pictures, by models of the Florence-2 family.

An address that is not here gets 404, another method on one that is here 405, both with the body of every error. HEAD \
is answered wherever GET is; OPTIONS only as the preflight of a web origin that the operator listed. With \
`Accept: text/plain` answers and errors are bare text."""


@dataclass(frozen=True)
class InPath:
    """What stands in braces in a path: what it means, and one that is good in every server or in most."""

    meaning: str
    example: str


@dataclass(frozen=True)
class Operation:
    """One call. `answer` is the body of a 200 by media type; `query` and `body` are what it takes.

    `raises` are its own errors, beside those of every call; `is_open` says that it asks no key, `timings` that it
    answers with Server-Timing. `path_parameters` are what stands in braces in the path; `headers`, by name, may come
    with the request and with the answer; `error` is the schema of its errors, in which a code is described: our own, or
    a dialect's (which is never bare text). Where there is a `body`, `needs_body` says that it must be sent.
    """

    method: str
    path: str
    tag: str
    summary: str
    answer: Mapping[str, Schema]
    query: Mapping[str, Field] | None = None
    body: Mapping[str, Schema] | None = None
    raises: Sequence[type[VisionError]] = ()
    is_open: bool = False
    timings: bool = False
    path_parameters: Mapping[str, InPath] | None = None
    headers: Mapping[str, Schema] | None = None
    error: str = "Error"
    needs_body: bool = True


STRING: Schema = {"type": "string"}
STRING_OR_NULL: Schema = {"type": ["string", "null"]}
COUNT: Schema = {"type": "integer", "minimum": 0}


def list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def json_or_text(schema: Schema) -> dict[str, Schema]:
    """An answer in JSON, or as bare text for those who ask for it."""
    return {JSON: schema, TEXT: {"type": "string"}}


def document(operations: Iterable[Operation], schemas: Mapping[str, Schema]) -> dict[str, Any]:
    """The OpenAPI document of `operations`; `schemas` are those they refer to by name, see `named`."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "vision-server", "version": __version__, "description": _ABOUT, "license": {"name": "MIT"}},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"header": []}, {}],
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR, PLAIN_ERROR: _PLAIN_ERROR, **schemas},
            "parameters": {"RequestId": _REQUEST_ID},
            "headers": _HEADERS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Where the operator set a key."},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def named(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def schema_of(kind: Any) -> Schema:
    """The JSON Schema of a value with this annotation, a dataclass, container or plain type, as `json` writes it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return _record({name: schema_of(hint) for name, hint in hints.items()})
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [schema_of(one) for one in arguments]}
    if origin in (tuple, list):
        return list_of(schema_of(arguments[0]))
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    return {"type": _PLAIN[kind]}


_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def record(**properties: Schema) -> Schema:
    """An object with exactly these properties."""
    return _record(properties)


def _record(properties: Mapping[str, Schema]) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


_ERROR: Schema = {
    **record(
        error={**STRING, "description": "What is wrong and what to do."},
        detail={**STRING, "description": "The same."},
        code=STRING,
        request_id={**STRING, "description": "The X-Request-Id."},
    )
}
_PLAIN_ERROR = record(error={**STRING, "description": "What is wrong and what to do."})
_REQUEST_ID: Schema = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "An id for the log. It comes back if it is 1 to 128 visible ASCII characters, else a new one does.",
    "schema": STRING,
}
_HEADERS: dict[str, Schema] = {
    "X-Request-Id": {"description": "The request's id, given or new.", "required": True, "schema": STRING},
    "Server-Timing": {
        "description": "Milliseconds: queue, load, decode, encode, generate.",
        "required": True,
        "schema": {
            **STRING,
            "examples": ["queue;dur=0.4, load;dur=0.0, decode;dur=3.1, encode;dur=9.0, generate;dur=80.2"],
        },
    },
    "Retry-After": {
        "description": "Seconds until it is worth trying again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1, "maximum": 120},
    },
    "WWW-Authenticate": {"description": "The kind of key that is asked.", "required": True, "schema": STRING},
}


def _described(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": f"{operation.method.lower()}{re.sub(r'[^a-z0-9]+', '_', operation.path).rstrip('_')}",
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [
            {"$ref": "#/components/parameters/RequestId"},
            *(_parameter(name, field) for name, field in (operation.query or {}).items()),
            *(_in_path(name, what) for name, what in (operation.path_parameters or {}).items()),
            *({"name": name, "in": "header", **what} for name, what in (operation.headers or {}).items()),
        ],
        "responses": {"200": _answered(operation), **_refusals(operation)},
    }
    if operation.body is not None:
        content = {kind: {"schema": schema} for kind, schema in operation.body.items()}
        described["requestBody"] = {"required": operation.needs_body, "content": content}
    if operation.is_open:
        described["security"] = []
    return described


def _parameter(name: str, field: Field) -> Schema:
    return {"name": name, "in": "query", "description": field.meaning, "schema": field.plain}


def _in_path(name: str, what: InPath) -> Schema:
    schema = {**STRING, "minLength": 1, "examples": [what.example]}
    return {"name": name, "in": "path", "required": True, "description": what.meaning, "schema": schema}


def _answered(operation: Operation) -> Schema:
    headers = _headers("X-Request-Id", *(["Server-Timing"] if operation.timings else []))
    return {
        "description": "The answer.",
        "headers": {**headers, **(operation.headers or {})},
        "content": {kind: {"schema": schema} for kind, schema in operation.answer.items()},
    }


def _refusals(operation: Operation) -> dict[str, Schema]:
    """By status, each with the codes that come with it."""
    key = () if operation.is_open else (Unauthorized,)
    errors = {*_ANY_CALL, *key, *operation.raises}
    codes: dict[int, list[str]] = {}
    for error in sorted(errors, key=lambda error: (error.status, error.code)):
        codes.setdefault(error.status, []).append(error.code)
    return {str(status): _refusal(status, of_status, operation.error) for status, of_status in codes.items()}


def _refusal(status: int, codes: list[str], schema: str) -> Schema:
    also = {429: ["Retry-After"], 503: ["Retry-After"], 401: ["WWW-Authenticate"]}.get(status, [])
    code = {"properties": {"code": {"enum": codes}}}
    if schema == PLAIN_ERROR:
        content = {JSON: {"schema": named(schema)}}
    elif schema == OPENAI_ERROR:
        content = {JSON: {"schema": {"allOf": [named(schema), {"properties": {"error": code}}]}}}
    else:
        content = {kind: {"schema": one} for kind, one in json_or_text({"allOf": [named(schema), code]}).items()}
    return {
        "description": _MEANING[status],
        "headers": _headers("X-Request-Id", *also),
        "content": content,
    }


def _headers(*names: str) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
