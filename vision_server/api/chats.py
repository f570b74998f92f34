"""What the dialects that chat share: a text with pictures -> requests for the queue -> one text, or its pieces; and
what they say of it that is not said elsewhere: a form of JSON, and a ceiling of tokens.

Each picture is asked by itself; the answers stand in one text, in the order of the pictures.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ..errors import BadRequest
from ..footprint import positions
from ..jobs import Outcome, Request
from ..served import Served
from .bodies import picture
from .keys import MODELS, OUTCOMES, REQUEST_ID, SETTINGS
from .replies import result
from .requests import to_request
from .streams import Asked, Stream, all_results, result_of, telling_which

MAX_IMAGES = 16  # of one request, which is held by the limits on requests as one
NO_IMAGE = "There is no picture in this message: I only describe pictures."
_MOST_TOKENS = 1024  # of an answer for which nothing is said, where the checkpoint has the positions


@dataclass(frozen=True)
class Wording:
    """How answers become text. One that has parts is a line of JSON, with an empty line between two pictures.

    With a `key` everything is JSON: a mere text stands in an object under that name, several answers in a list.
    """

    key: str | None = None

    def said(self, job: Request, outcome: Outcome) -> str:
        return self._text(result(job, outcome, parse=self.key is not None))

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

    def _text(self, said: Any) -> str:
        if self.key is not None and isinstance(said, str):
            said = {self.key: said}
        return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)


def key_for(schema: object) -> str:
    """The name that a text has in an answer in JSON, which a JSON schema may ask for, or anything else may not.

    No schema binds this model's words: of one is used what its only property of text is called.
    """
    properties = schema.get("properties") if isinstance(schema, dict) else None
    texts = [
        name
        for name, of_property in (properties if isinstance(properties, dict) else {}).items()
        if isinstance(of_property, dict) and of_property.get("type") == "string"
    ]
    return texts[0] if len(texts) == 1 else "result"


def ceiling(most_tokens: int | None, model: Served) -> dict[str, int]:
    """The field that keeps an answer to so many tokens, where it could have more.

    Clients for larger models ask for thousands, or below 1 for as many as there are. That is no mistake, since an
    answer need not reach its ceiling, while `max_new_tokens` itself is refused beyond the checkpoint's positions.
    """
    most_there_are = min(_MOST_TOKENS, positions(model.checkpoint) or _MOST_TOKENS)
    return {"max_new_tokens": most_tokens} if most_tokens is not None and 0 < most_tokens < most_there_are else {}


async def to_jobs(request: web.Request, images: Sequence[object], fields: Mapping[str, Any]) -> list[Request]:
    """The same `fields` about each of `images`, which are as `bodies.picture` takes them, and raises."""
    if len(images) > MAX_IMAGES:
        raise BadRequest(f"The message has {len(images)} pictures: send {MAX_IMAGES} at most.")
    models, settings = request.app[MODELS], request.app[SETTINGS]
    jobs: list[Request] = []
    for number, image in enumerate(images):
        with telling_which(number, len(images)):
            file = await picture(request, image, sum(len(job.image) for job in jobs))
        jobs.append(to_request({**fields, "image": file}, request[REQUEST_ID], models, settings))
    return jobs


async def whole(request: web.Request, jobs: Sequence[Request], tasks: Asked, wording: Wording) -> str:
    """All of it at once. What the model said is noted in the request."""
    outcomes = await all_results(tasks)
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
