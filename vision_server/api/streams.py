"""An answer that comes in pieces, and the wait for what it is made of.

The response begins with its first piece. What fails before is refused with a status of its own; what fails later
becomes the last piece, since the status is out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any, TypeVar

from aiohttp import hdrs, web

from ..errors import VisionError
from ..jobs import Outcome, Place, Queue, Request

Result = TypeVar("Result")

PING_S = 5.0  # proxies and clients give up on a connection that is silent for 30 s or more


class Stream:
    """`on_begin` is told when the first piece is written; `last_words` makes an error into a piece.

    `content_type` is the header's whole value, with the charset where the dialect says one.
    """

    def __init__(
        self,
        request: web.Request,
        content_type: str,
        on_begin: Callable[[Stream], None],
        last_words: Callable[[VisionError], bytes],
    ) -> None:
        self._request = request
        self._on_begin = on_begin
        self._last_words = last_words
        self._response = web.StreamResponse()
        self._response.headers[hdrs.CONTENT_TYPE] = content_type
        self._response.headers[hdrs.CACHE_CONTROL] = "no-cache"
        self._response.headers["X-Accel-Buffering"] = "no"  # nginx would keep the pieces back

    async def write(self, piece: bytes) -> None:
        """Raises CancelledError where the client has left and the server is only about to notice."""
        try:
            if not self._response.prepared:
                await self._response.prepare(self._request)
                self._on_begin(self)
            await self._response.write(piece)
        except ConnectionResetError:
            raise asyncio.CancelledError from None

    async def fail(self, error: VisionError) -> web.StreamResponse:
        """Say it as the last piece of an answer that has begun, if anybody is still there."""
        with suppress(ConnectionResetError):
            await self._response.write(self._last_words(error))
        return self._response

    @property
    def response(self) -> web.StreamResponse:
        """To be returned by the handler, which ends it."""
        return self._response


Asked = Sequence["asyncio.Task[Outcome]"]


@asynccontextmanager
async def asked(queue: Queue, jobs: Sequence[Request], place: Place) -> AsyncIterator[Asked]:
    """Each of `jobs` on its way to its outcome, in their order; on leaving, what has none is taken back.

    The first has the `place`. There is one for each further one, too, or all are refused before any is asked. Raises
    QueueFull, CannotServe.
    """
    with ExitStack() as admitted:
        if jobs:
            queue.resize(place, len(jobs[0].image))  # the body held them all
        further = [admitted.enter_context(queue.admit(len(job.image))) for job in jobs[1:]]
        async with running([queue.submit(*one) for one in zip(jobs, [place, *further], strict=False)]) as tasks:
            yield tasks


@asynccontextmanager
async def running(works: Iterable[Coroutine[Any, Any, Result]]) -> AsyncIterator[Sequence[asyncio.Task[Result]]]:
    """All of `works` at once; on leaving, what is not done is cancelled."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def result_of(number: int, tasks: Sequence[asyncio.Task[Result]], stream: Stream, ping: bytes) -> Result:
    """What became of one of them; meanwhile a `ping` every now and then. Raises what any of them has failed with."""
    while not tasks[number].done():
        pending = [task for task in tasks if not task.done()]
        done, _ = await asyncio.wait(pending, timeout=PING_S, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if not done:
            await stream.write(ping)
    return tasks[number].result()
