"""The outermost layer: every response gets a request id, a line in the log and a place in the metrics, and every error
is rendered here and nowhere else."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from ..errors import BadRequest, BodyTooSlow, MethodNotAllowed, NotFound, TooLarge, VisionError
from . import openai_replies
from .guard import cors_headers
from .keys import METRICS, MODEL, OUTCOMES, REQUEST_ID, SETTINGS, STATISTICS, STREAM
from .metrics import CANCELLED, CLIENT_GONE, UNKNOWN_ROUTE
from .replies import render_error, render_plain_error, total_timings

log = logging.getLogger(__name__)
_SOUND_ID = re.compile(r"[!-~]{1,128}")
_MAX_LOGGED_PATH = 200
# How errors look below an address, and where pictures go there; below any other both are native.
_DIALECTS = (
    ("/v1", openai_replies.render_error, "/v1/chat/completions"),
    ("/api", render_plain_error, "/api/chat or /api/generate"),
    ("/v2", render_plain_error, "/v2/models/{model}/infer"),
)


@web.middleware
async def errors_and_ids(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Run the handler; whatever it raises becomes a response, save a cancellation and a redirect."""
    request_id = _identify(request)
    request[OUTCOMES] = []
    failure: str | None = None
    began_s = time.monotonic()
    try:
        response = await handler(request)
    except asyncio.CancelledError:
        _note(request, CLIENT_GONE, CANCELLED, began_s)
        raise
    except VisionError as error:
        failure, response = error.code, await _refused(request, error, request_id)
    except web.HTTPException as refusal:
        if refusal.status < 400:
            _note(request, refusal.status, None, began_s)
            raise
        ours = _ours(request, refusal)
        failure, response = ours.code, await _refused(request, ours, request_id)
        if hdrs.ALLOW in refusal.headers:
            response.headers[hdrs.ALLOW] = refusal.headers[hdrs.ALLOW]
    except Exception:
        log.exception("%s %s", request.method, _path(request), extra={"request_id": request_id})
        neutral = VisionError("Something went wrong inside the server. Its log tells more, under this request id.")
        failure, response = neutral.code, await _refused(request, neutral, request_id)
    _note(request, response.status, failure, began_s)
    return response


async def _refused(request: web.Request, error: VisionError, request_id: str) -> web.StreamResponse:
    """The error in the form of the dialect that was asked; within the answer, where that has begun."""
    if STREAM in request:
        return await request[STREAM].fail(error)
    for below, render, _ in _DIALECTS:
        if _is_below(request, below):
            return render(error)
    return render_error(request, error, request_id)


def _is_below(request: web.Request, address: str) -> bool:
    return request.path == address or request.path.startswith(f"{address}/")


def _note(request: web.Request, status: int, failure: str | None, began_s: float) -> None:
    """Count a request that is over, and log it: what became of it and its figures, never what was asked."""
    seconds = time.monotonic() - began_s
    resource = request.match_info.route.resource
    route = UNKNOWN_ROUTE if resource is None else resource.canonical
    outcomes = request[OUTCOMES]
    request.app[METRICS].finished(route, status, seconds, failure, outcomes)
    if MODEL in request:
        request.app[STATISTICS].finished(request[MODEL], seconds, failure is not None, outcomes)
    fields: dict[str, int | float | str] = {"status": status, "ms": round(seconds * 1000, 1)}
    if failure is not None:
        fields["error"] = failure
    if outcomes:
        for stage, ms in total_timings(outcomes).items():
            fields[f"{stage}_ms"] = round(ms, 1)
        fields["prompt_tokens"] = sum(outcome.prompt_tokens for outcome in outcomes)
        fields["new_tokens"] = sum(outcome.new_tokens for outcome in outcomes)
    log.log(
        logging.DEBUG if request.method == "GET" else logging.INFO,  # monitoring asks every second: that is no news
        "%s %s %s",
        failure if failure == CANCELLED else "failed" if failure else "answered",
        request.method,
        _path(request),
        extra={"request_id": request[REQUEST_ID], "fields": fields},
    )


def _path(request: web.Request) -> str:
    """The path as it came, since decoded it may hold line breaks; not more of it than a line can bear."""
    path = request.rel_url.raw_path
    return path if len(path) <= _MAX_LOGGED_PATH else f"{path[:_MAX_LOGGED_PATH]}..."


async def stamp(request: web.Request, response: web.StreamResponse) -> None:
    """The headers that every response carries, streamed ones too; a signal handler for `on_response_prepare`."""
    response.headers["X-Request-Id"] = _identify(request)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers[hdrs.SERVER] = "vision-server"
    response.headers.update(cors_headers(request.headers, request.app[SETTINGS]))


def _identify(request: web.Request) -> str:
    """The id the client gave, or a new one. Asked by `stamp` first where aiohttp refuses ahead of any middleware."""
    if REQUEST_ID not in request:
        given = request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = given if _SOUND_ID.fullmatch(given) else uuid.uuid4().hex
    return request[REQUEST_ID]


def _ours(request: web.Request, refusal: web.HTTPException) -> VisionError:
    """What aiohttp itself refuses, in our words."""
    if isinstance(refusal, web.HTTPNotFound):
        where = next((where for below, _, where in _DIALECTS if _is_below(request, below)), "/process_image")
        return NotFound(f"There is nothing at this address. Pictures go to POST {where}.")
    if isinstance(refusal, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(refusal.allowed_methods))
        return MethodNotAllowed(f"This address does not take {refusal.method}: use {allowed}.")
    if isinstance(refusal, web.HTTPRequestEntityTooLarge):
        return TooLarge("The body is larger than this server takes: send a smaller picture.")
    if isinstance(refusal, web.HTTPRequestTimeout):
        return BodyTooSlow("The request took too long to arrive.")
    return BadRequest("The request cannot be read as HTTP.")
