"""The native calls. Those that look only look: they never load the model and never touch the idle clock."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aiohttp import web

from ..errors import BadRequest, CannotServe, LoadFailed
from ..served import Served
from ..tasks import TASKS, Task, answer, of_token, parse_fields
from .bodies import check_length, read_fields
from .keys import MODELS, QUEUE, REQUEST_ID, SETTINGS
from .replies import reply, server_timing
from .requests import flag, keep_alive_s, pick, to_request


async def process_image(request: web.Request) -> web.Response:
    """One picture, one prompt. A full queue refuses before the body is read; the worker starts while it arrives.

    With `parse` an answer that has parts (PromptGen's) comes as an object of them; `raw` adds the generated text.
    """
    queue = request.app[QUEUE]
    queue.check_admission()
    check_length(request)
    with queue.expect():
        fields = await read_fields(request)
    parse, raw = flag(fields, "parse"), flag(fields, "raw")
    job = to_request(fields, request[REQUEST_ID], request.app[MODELS], request.app[SETTINGS])
    outcome = await queue.submit(job)
    result: Any = answer(job.task, outcome.text, (outcome.width, outcome.height), outcome.banned)
    if parse and of_token(job.task).fields:
        result = parse_fields(job.task, outcome.text)
    response = reply(request, {"result": result, **({"raw": outcome.text} if raw else {})}, result)
    response.headers["Server-Timing"] = server_timing(outcome.timings_ms)
    return response


async def prompts(request: web.Request) -> web.Response:
    """The prompts that are advised; with `?all=1` everything that is accepted, each row explained."""
    names = _picked(request).prompts
    if flag(request.query, "all"):
        tokens = dict.fromkeys((*names, *(task.token for task in TASKS)))
        return reply(request, [_explained(of_token(token)) for token in tokens], "".join(f"{t}\n" for t in tokens))
    return reply(request, names, "".join(f"{name}\n" for name in names))


def _picked(request: web.Request) -> Served:
    """What `?model=` names."""
    return pick(request.query.get("model", ""), request.app[MODELS])


def _explained(task: Task) -> dict[str, str]:
    names = ("token", "sentence", "input", "answer", "explanation")
    return {name: getattr(task, name) for name in names}


async def model(request: web.Request) -> web.Response:
    """The default one's name."""
    return reply(request, request.app[MODELS][0].name)


async def status(request: web.Request) -> web.Response:
    return reply(request, asdict(request.app[QUEUE].status()))


async def load(request: web.Request) -> web.Response:
    """Load ahead of time; answers when the model is there."""
    await request.app[QUEUE].load(_picked(request).name, keep_alive_s(request.query.get("keep_alive")))
    return await status(request)


async def unload(request: web.Request) -> web.Response:
    """Give the device back now: 409 while busy, `?force=1` finishes the queue first."""
    force = request.query.get("force", "0").lower()
    if force not in ("0", "1", "true", "false", ""):
        raise BadRequest("force must be 0 or 1.")
    await request.app[QUEUE].unload(force=force in ("1", "true"))
    return await status(request)


async def health(request: web.Request) -> web.Response:
    """200 while the process can accept work; asleep is healthy."""
    if request.app[QUEUE].status().draining:
        raise CannotServe("The server is shutting down.", retry_after_s=5)
    return reply(request, {"status": "ok"}, "ok")


async def ready(request: web.Request) -> web.Response:
    """200 while it can serve (asleep counts); 503 with the reason while it leaves or the last load failed."""
    now = request.app[QUEUE].status()
    if now.draining:
        raise CannotServe("The server is shutting down.", retry_after_s=5)
    if now.failure is not None:
        raise LoadFailed(f"The last load failed: {now.failure}", retry_after_s=5)
    return reply(request, {"status": "ready", "state": now.state}, "ready")
