"""The four dialects as a table: how each asks about a picture in JSON, and where its answer and its error stand.

Not a test. That each dialect's own clients understand it is shown beside the dialect.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Dialect:
    """`asks` makes the body from base64, the prompt and its text; `says` finds the answer in what comes back, `blames`
    the error's sentence, where nothing but what this dialect says stands beside it. `route` is the path without names.
    `chats`: words that are no prompt are the talk of people, and get the default prompt."""

    name: str
    path: str
    asks: Callable[[str, str, str], Body]
    says: Callable[[Body], Any]
    blames: Callable[[Body], str]
    chats: bool

    @property
    def route(self) -> str:
        return self.path.replace("florence2", "{model}")

    def body(self, picture: bytes, prompt: str, text: str = "") -> Body:
        return self.asks(base64.b64encode(picture).decode(), prompt, text)


def _native(image: str, prompt: str, text: str) -> Body:
    return {"image": image, "prompt": prompt, "text_input": text}


def _openai(image: str, prompt: str, text: str) -> Body:
    url = {"url": f"data:image/png;base64,{image}"}
    parts = [{"type": "text", "text": f"{prompt} {text}".strip()}, {"type": "image_url", "image_url": url}]
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": parts}]}


def _ollama(image: str, prompt: str, text: str) -> Body:
    message = {"role": "user", "content": f"{prompt} {text}".strip(), "images": [image]}
    return {"model": "gpt-4o", "messages": [message], "stream": False}


def _kserve(image: str, prompt: str, text: str) -> Body:
    values = {"INPUT_IMAGE": image, "TASK_PROMPT": prompt} | ({"TEXT_PROMPT": text} if text else {})
    inputs = [{"name": name, "datatype": "BYTES", "shape": [1, 1], "data": [said]} for name, said in values.items()]
    return {"inputs": inputs}


def _object_or_text(text: str) -> Any:
    """What the dialects of text write an object as."""
    return json.loads(text) if text.startswith("{") else text


def _inferred(body: Body) -> Any:
    [answer] = json.loads(body["outputs"][0]["data"][0]).values()
    return answer


def _native_error(body: Body) -> str:
    assert set(body) == {"error", "detail", "code", "request_id"}
    assert body["error"] == body["detail"]
    return str(body["error"])


def _openai_error(body: Body) -> str:
    [error] = body.values()
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["message"])


def _sentence(body: Body) -> str:
    assert set(body) == {"error"}
    return str(body["error"])


DIALECTS = (
    Dialect(
        "native",
        "/process_image",
        _native,
        lambda body: body["result"],
        _native_error,
        chats=False,
    ),
    Dialect(
        "openai",
        "/v1/chat/completions",
        _openai,
        lambda body: _object_or_text(body["choices"][0]["message"]["content"]),
        _openai_error,
        chats=True,
    ),
    Dialect(
        "ollama",
        "/api/chat",
        _ollama,
        lambda body: _object_or_text(body["message"]["content"]),
        _sentence,
        chats=True,
    ),
    Dialect(
        "kserve",
        "/v2/models/florence2/infer",
        _kserve,
        _inferred,
        _sentence,
        chats=False,
    ),
)
