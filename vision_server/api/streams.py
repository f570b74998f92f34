"""An answer that comes in pieces, and the wait for what it is made of.

The response begins with its first piece. What fails before is refused with a status of its own; what fails later
becomes the last piece, since the status is out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
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
        async with under_way([queue.submit(*one) for one in zip(jobs, [place, *further], strict=False)]) as tasks:
            yield tasks


@asynccontextmanager
async def under_way(works: Iterable[Coroutine[Any, Any, Result]]) -> AsyncIterator[Sequence[asyncio.Task[Result]]]:
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
    while True:
        _results(tasks, [task for task in tasks if task.done()])
        if tasks[number].done():
            return tasks[number].result()
        pending = [task for task in tasks if not task.done()]
        done, _ = await asyncio.wait(pending, timeout=PING_S, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            await stream.write(ping)


async def all_results(tasks: Sequence[asyncio.Task[Result]]) -> list[Result]:
    """What became of all of them. Raises what the first of them to fail has failed with."""
    done = (await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION))[0] if tasks else ()
    return _results(tasks, done)


def _results(tasks: Sequence[asyncio.Task[Result]], done: Collection[asyncio.Task[Result]]) -> list[Result]:
    results = []
    for number, task in enumerate(tasks):
        if task in done:
            with telling_which(number, len(tasks)):
                results.append(task.result())
    return results


@contextmanager
def telling_which(number: int, count: int) -> Iterator[None]:
    """An error that one picture of several is to blame for says which one."""
    try:
        yield
    except VisionError as error:
        if count == 1 or not 400 <= error.status < 500 or error.status == 429:
            raise
        raise type(error)(f"Picture {number + 1} of {count}: {error}") from None
