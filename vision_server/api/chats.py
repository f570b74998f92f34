"""What the dialects that chat share: a text with pictures -> requests for the queue -> one text, or its pieces.

Each picture is asked by itself; the answers stand in one text, in the order of the pictures.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ..errors import BadRequest
from ..jobs import Outcome, Request
from ..tasks import answer, of_token, parse_fields
from .bodies import picture
from .keys import MODELS, OUTCOMES, REQUEST_ID, SETTINGS
from .requests import to_request
from .streams import Asked, Stream, result_of

MAX_IMAGES = 16  # of one request, which is held by the limits on requests as one
NO_IMAGE = "There is no picture in this message: I only describe pictures."


@dataclass(frozen=True)
class Wording:
    """How answers become text. One that has parts is a line of JSON, with an empty line between two pictures.

    With a `key` everything is JSON: a mere text stands in an object under that name, several answers in a list.
    """

    key: str | None = None

    def said(self, job: Request, outcome: Outcome) -> str:
        if self.key is not None and of_token(job.task).fields:
            return self._text(parse_fields(job.task, outcome.text))
        return self._text(answer(job.task, outcome.text, (outcome.width, outcome.height), outcome.banned))

    @property
    def no_image(self) -> str:
        return self._text(NO_IMAGE)

    def place(self, text: str, number: int, count: int) -> str:
        """Answer `number` of `count`, with what stands before it and after it."""
        if self.key is None:
            return f"\n\n{text}" if number else text
        if count == 1:
            return text
        return f"{', ' if number else '['}{text}{']' if number == count - 1 else ''}"

    def _text(self, result: Any) -> str:
        if self.key is not None and isinstance(result, str):
            result = {self.key: result}
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


async def to_jobs(request: web.Request, images: Sequence[object], fields: Mapping[str, Any]) -> list[Request]:
    """The same `fields` about each of `images`, which are as `bodies.picture` takes them, and raises."""
    if len(images) > MAX_IMAGES:
        raise BadRequest(f"The message has {len(images)} pictures: send {MAX_IMAGES} at most.")
    models, settings = request.app[MODELS], request.app[SETTINGS]
    jobs: list[Request] = []
    for image in images:
        file = await picture(request, image, sum(len(job.image) for job in jobs))
        jobs.append(to_request({**fields, "image": file}, request[REQUEST_ID], models, settings))
    return jobs


async def whole(request: web.Request, jobs: Sequence[Request], tasks: Asked, wording: Wording) -> str:
    """All of it at once. What the model said is noted in the request."""
    outcomes = await asyncio.gather(*tasks)
    request[OUTCOMES].extend(outcomes)
    said = map(wording.said, jobs, outcomes)
    return (
        "".join(wording.place(text, number, len(jobs)) for number, text in enumerate(said))
        if jobs
        else wording.no_image
    )


async def pieces(
    request: web.Request, jobs: Sequence[Request], tasks: Asked, wording: Wording, stream: Stream, ping: bytes
) -> AsyncIterator[str]:
    """Each picture's answer as it comes; a `ping` now and then while there is none."""
    for number, job in enumerate(jobs):
        outcome = await result_of(number, tasks, stream, ping)
        request[OUTCOMES].append(outcome)
        yield wording.place(wording.said(job, outcome), number, len(jobs))
    if not jobs:
        yield wording.no_image
