"""What the model said as an answer; answers and errors as HTTP responses, JSON or, for clients that ask for text/plain,
the bare text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from aiohttp import web

from ..errors import VisionError
from ..jobs import Outcome, Request
from ..tasks import answer, of_token, parse_fields

STAGES = ("queue", "load", "decode", "encode", "generate")  # of an answer, in the order in which they come


def result(job: Request, outcome: Outcome, parse: bool = False) -> Any:
    """What the model said, read as an answer of its prompt: a text, or an object with places in upright pixels.

    With `parse` a text that has parts (PromptGen's) is an object of them.
    """
    if parse and of_token(job.task).fields:
        return parse_fields(job.task, outcome.text)
    return answer(job.task, outcome.text, (outcome.width, outcome.height), outcome.banned)


def wants_text(accept: str) -> bool:
    """Whether text/plain is what the Accept header likes best.

    `application/json, text/plain, */*`, which many libraries send unasked, is JSON.
    """
    return preferred(accept, ("text/plain", "application/json", "application/*", "*/*")) == "text/plain"


def preferred(accept: str, offered: Sequence[str]) -> str:
    """What of `offered` a header of the Accept family likes best, higher q first, then the earlier one; "" for none."""
    best, best_q = "", 0.0
    for item in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        q = next((_quality(p[2:]) for p in parameters if p.startswith("q=")), 1.0)
        if kind in offered and q > best_q:
            best, best_q = kind, q
    return best


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def reply(request: web.Request, body: Any, text: Any = None, status: int = 200) -> web.Response:
    """`body` as JSON. Where text is wanted, `text` (or else `body`): a string bare, all else as one line of JSON."""
    if wants_text(request.headers.get("Accept", "")):
        shown = body if text is None else text
        return web.Response(text=shown if isinstance(shown, str) else _json(shown), status=status)
    return web.Response(text=_json(body), status=status, content_type="application/json")


def render_error(request: web.Request, error: VisionError, request_id: str) -> web.Response:
    """The native form of an error. `detail` is what the ancestor's clients look for; both hold the same sentence."""
    message = str(error)
    body = {"error": message, "detail": message, "code": error.code, "request_id": request_id}
    response = reply(request, body, message, error.status)
    response.headers.update(error_headers(error))
    return response


def render_plain_error(error: VisionError) -> web.Response:
    """The form of the dialects whose errors are nothing but a sentence."""
    response = web.json_response({"error": str(error)}, status=error.status)
    response.headers.update(error_headers(error))
    return response


def error_headers(error: VisionError) -> dict[str, str]:
    """Those that an error has in every dialect."""
    if error.status in (429, 503):
        return {"Retry-After": str(retry_after_s(error))}
    return {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}


def retry_after_s(error: VisionError) -> int:
    """1 to 120: an SDK that is told more stops retrying altogether."""
    return min(max(math.ceil(error.retry_after_s or 1), 1), 120)


def total_timings(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """Milliseconds by stage, those of several pictures added up."""
    outcomes = list(outcomes)
    return {name: sum(outcome.timings_ms.get(name, 0.0) for outcome in outcomes) for name in STAGES}


def server_timing(outcomes: Iterable[Outcome]) -> str:
    """The Server-Timing header's value, milliseconds."""
    return ", ".join(f"{name};dur={ms:.1f}" for name, ms in total_timings(outcomes).items())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
