"""The outermost layer: every response gets a request id, and every error is rendered here and nowhere else."""

from __future__ import annotations

import logging
import re
import time
import uuid

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from ..errors import BadRequest, BodyTooSlow, MethodNotAllowed, NotFound, TooLarge, VisionError
from .guard import cors_headers
from .keys import REQUEST_ID, SETTINGS
from .replies import render_error

log = logging.getLogger(__name__)
_SOUND_ID = re.compile(r"[!-~]{1,128}")


@web.middleware
async def errors_and_ids(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Run the handler; whatever it raises becomes a response, save a cancellation and a redirect."""
    request_id = _identify(request)
    began_s = time.monotonic()
    try:
        response = await handler(request)
    except VisionError as error:
        response = render_error(request, error, request_id)
    except web.HTTPException as refusal:
        if refusal.status < 400:
            raise
        response = render_error(request, _ours(refusal), request_id)
        if hdrs.ALLOW in refusal.headers:
            response.headers[hdrs.ALLOW] = refusal.headers[hdrs.ALLOW]
    except Exception:
        log.exception("%s %s failed", request.method, request.rel_url.raw_path, extra={"request_id": request_id})
        neutral = VisionError("Something went wrong inside the server. Its log tells more, under this request id.")
        response = render_error(request, neutral, request_id)
    # The raw path: decoded it may hold line breaks. Monitoring asks every second, so a GET is no news.
    log.log(
        logging.DEBUG if request.method == "GET" else logging.INFO,
        "%s %s: %d in %.0f ms",
        request.method,
        request.rel_url.raw_path,
        response.status,
        (time.monotonic() - began_s) * 1000,
        extra={"request_id": request_id},
    )
    return response


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


def _ours(refusal: web.HTTPException) -> VisionError:
    """What aiohttp itself refuses, in our words."""
    if isinstance(refusal, web.HTTPNotFound):
        return NotFound("There is nothing at this address. Pictures go to POST /process_image.")
    if isinstance(refusal, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(refusal.allowed_methods))
        return MethodNotAllowed(f"This address does not take {refusal.method}: use {allowed}.")
    if isinstance(refusal, web.HTTPRequestEntityTooLarge):
        return TooLarge("The body is larger than this server takes: send a smaller picture.")
    if isinstance(refusal, web.HTTPRequestTimeout):
        return BodyTooSlow("The request took too long to arrive.")
    return BadRequest("The request cannot be read as HTTP.")
