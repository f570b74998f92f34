"""Completions, chunks, models and errors in the shapes that OpenAI's clients read. No queue, no request."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from ..errors import (
    BadImage,
    DeadlinePassed,
    FetchFailed,
    ImageRefused,
    ModelNotFound,
    TooLarge,
    VisionError,
    WorkerCrash,
)
from ..jobs import Outcome
from .replies import error_headers

PING = b": waiting\n\n"
DONE = b"data: [DONE]\n\n"
EVENTS = "text/event-stream"
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_PARAMS = {
    ModelNotFound.code: "model",
    **dict.fromkeys((BadImage.code, ImageRefused.code, FetchFailed.code, TooLarge.code), "messages"),
}
# The SDK asks again, unless it is told otherwise, after these and after every 5xx.
_RETRIED = (408, 409, 429)


@dataclass(frozen=True)
class Completion:
    """What all pieces of one answer have in common. `choices` is how many there are, all alike."""

    model: str
    choices: int
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))  # seconds since 1970

    def whole(self, text: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        one = {"message": message, "logprobs": None, "finish_reason": _finish_reason(outcomes)}
        choices = [{"index": index, **one} for index in range(self.choices)]
        return {**self._head("chat.completion"), "choices": choices, "usage": _usage(outcomes)}

    def first(self, include_usage: bool) -> bytes:
        return self._chunk({"role": "assistant", "content": ""}, None, include_usage)

    def piece(self, text: str, include_usage: bool) -> bytes:
        return self._chunk({"content": text}, None, include_usage)

    def last(self, outcomes: Sequence[Outcome], include_usage: bool) -> bytes:
        """The finish, the usage where it is asked for, and the mark of the end."""
        finish = self._chunk({}, _finish_reason(outcomes), include_usage)
        usage = {**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(outcomes)}
        return finish + (_event(usage) if include_usage else b"") + DONE

    def _chunk(self, delta: dict[str, str], finish_reason: str | None, include_usage: bool) -> bytes:
        one = {"delta": delta, "logprobs": None, "finish_reason": finish_reason}
        choices = [{"index": index, **one} for index in range(self.choices)]
        usage = {"usage": None} if include_usage else {}
        return _event({**self._head("chat.completion.chunk"), "choices": choices, **usage})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _finish_reason(outcomes: Iterable[Outcome]) -> str:
    return "length" if any(outcome.finish_reason == "length" for outcome in outcomes) else "stop"


def _usage(outcomes: Sequence[Outcome]) -> dict[str, int]:
    prompt = sum(outcome.prompt_tokens for outcome in outcomes)
    new = sum(outcome.new_tokens for outcome in outcomes)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def model_card(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "vision-server"}


def error_body(error: VisionError) -> dict[str, Any]:
    kind = "server_error" if error.status >= 500 else _TYPES.get(error.status, "invalid_request_error")
    said = {"message": str(error), "type": kind, "param": _PARAMS.get(error.code), "code": error.code}
    return {"error": said}


def error_event(error: VisionError) -> bytes:
    return _event(error_body(error))


def render_error(error: VisionError) -> web.Response:
    """With the order not to ask again where that cannot help, or would only wait as long again; the SDK obeys it."""
    response = web.json_response(error_body(error), status=error.status)
    response.headers.update(error_headers(error))
    if isinstance(error, WorkerCrash | DeadlinePassed) or (error.status < 500 and error.status not in _RETRIED):
        response.headers["x-should-retry"] = "false"
    return response


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
