"""What the HTTP library would do by itself, before any handler: with bytes that are not HTTP, with `Expect`, and with
more connections than the system lets a process have.

Its own words quote its parser and name its libraries; here they become errors like all others. And it would invite a
body at once, where a client has offered to wait (curl does, with more than a megabyte): that is for who reads it, so
that a request which is refused by its headers is not sent in whole first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from functools import partial
from typing import Any, ClassVar, cast

from aiohttp import HttpVersion11, hdrs, web

from ..errors import BadRequest, CannotServe, VisionError
from .keys import METRICS, WAITS
from .metrics import UNKNOWN_ROUTE, Metrics
from .replies import render_error

log = logging.getLogger(__name__)

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_UNREADABLE = "This cannot be read as HTTP/1.1, or the body is compressed otherwise than by gzip or deflate."


class Connections:
    """How many there are, and how many there may be: one more is told so and closed.

    Without this the system would refuse the next file, whatever it is for: a client would wait unheard, and no worker
    could be started.
    """

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0


class Connection(web.RequestHandler):
    """One client's connection. What goes wrong outside the handlers is answered in our form, and counted."""

    __slots__ = ()
    metrics: ClassVar[Metrics]
    all: ClassVar[Connections]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.all.count += 1
        if self.all.count > self.all.most:
            cast(asyncio.WriteTransport, transport).write(_refusal())
            transport.close()
            self.metrics.finished(UNKNOWN_ROUTE, CannotServe.status, 0.0, CannotServe.code, ())

    def connection_lost(self, exc: BaseException | None) -> None:
        self.all.count -= 1
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Of 400 the parser's reasons are in `exc` and `message`; anything else is our own fault."""
        request_id = uuid.uuid4().hex
        if status == BadRequest.status:
            error: VisionError = BadRequest(_UNREADABLE)
            log.debug("what came is not HTTP", extra={"request_id": request_id})
        else:
            error = VisionError("Something went wrong inside the server. Its log tells more, under this request id.")
            log.error("outside the handlers", exc_info=exc, extra={"request_id": request_id})
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is half sent already")
        self.metrics.finished(UNKNOWN_ROUTE, error.status, 0.0, error.code, ())
        response = render_error(cast(web.Request, request), error, request_id)
        response.headers["X-Request-Id"] = request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers[hdrs.SERVER] = "vision-server"
        response.force_close()
        return response


def _refusal() -> bytes:
    """The whole answer, in the form of `render_error`; there is no request that it could be rendered for."""
    message = "The server has as many connections as it can have. Close some, or try again soon."
    body = {"error": message, "detail": message, "code": CannotServe.code, "request_id": uuid.uuid4().hex}
    text = json.dumps(body).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable",
        f"Content-Length: {len(text)}",
        "Content-Type: application/json; charset=utf-8",
        f"X-Request-Id: {body['request_id']}",
        "X-Content-Type-Options: nosniff",
        "Retry-After: 5",
        "Server: vision-server",
        "Connection: close",
    )
    return "\r\n".join((*head, "", "")).encode() + text


class Runner(web.AppRunner):
    """Serves an application on our connections, of which there are `most_connections` at a time."""

    def __init__(self, app: web.Application, most_connections: int, **options: Any) -> None:
        super().__init__(app, **options)
        of_app = {"__slots__": (), "metrics": app[METRICS], "all": Connections(most_connections)}
        self._class = type("Connection", (Connection,), of_app)

    @property
    def server(self) -> Any:
        """What makes the protocol object of a new connection; None before `setup`."""
        make = super().server
        return None if make is None else partial(_connection, make, self._class)


def _connection(make: web.Server, ours: type[Connection]) -> web.RequestHandler:
    protocol = make()
    protocol.__class__ = ours  # the library has no setting for it, and the class adds nothing but methods
    return protocol


async def wait_with_body(request: web.Request) -> None:
    """The `expect_handler` of every route: note that the client waits for an invitation. Other wishes are ignored."""
    request[WAITS] = request.version >= HttpVersion11 and request.headers[hdrs.EXPECT].lower() == "100-continue"


async def invite_body(request: web.Request) -> None:
    """To be called before the body is read."""
    if request.get(WAITS):
        request[WAITS] = False
        await request.writer.write(_CONTINUE)
        request.writer.output_size = 0  # this was no part of the answer
