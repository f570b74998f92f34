"""The native calls. Those that look only look: they never load the model and never touch the idle clock."""

from __future__ import annotations

import time
from dataclasses import asdict

from aiohttp import hdrs, web

from .. import __version__
from ..served import Served
from ..tasks import TASKS, Task, of_token
from .admission import admitted, counted
from .bodies import read_fields
from .fields import read
from .keys import INSTANCE_ID, METRICS, MODEL, MODELS, OUTCOMES, QUEUE, REQUEST_ID, SETTINGS, STARTED_S
from .metrics import CONTENT_TYPE
from .probes import check_live, check_ready
from .replies import reply, result, server_timing
from .requests import pick, to_request


async def process_image(request: web.Request) -> web.Response:
    """One picture, one prompt. Who is refused is so before the body is read; the worker starts while it arrives.

    With `parse` an answer that has parts (PromptGen's) comes as an object of them; `raw` adds the generated text.
    """
    queue = request.app[QUEUE]
    with admitted(request) as place:
        with queue.expect():
            fields = await read_fields(request)
        parse, raw = read(fields, "parse"), read(fields, "raw")
        job = to_request(fields, request[REQUEST_ID], request.app[MODELS], request.app[SETTINGS])
        request[MODEL] = job.model
        outcome = await queue.submit(job, place)
        request[OUTCOMES].append(outcome)
    said = result(job, outcome, bool(parse))
    response = reply(request, {"result": said, **({"raw": outcome.text} if raw else {})}, said)
    response.headers["Server-Timing"] = server_timing([outcome])
    return response


async def prompts(request: web.Request) -> web.Response:
    """The prompts that are advised; with `?all=1` everything that is accepted, each row explained."""
    names = _picked(request).prompts
    if read(request.query, "all"):
        tokens = dict.fromkeys((*names, *(task.token for task in TASKS)))
        return reply(request, [_explained(of_token(token)) for token in tokens], "".join(f"{t}\n" for t in tokens))
    return reply(request, names, "".join(f"{name}\n" for name in names))


def _picked(request: web.Request) -> Served:
    """What `?model=` names."""
    return pick(read(request.query, "model") or "", request.app[MODELS])


def _explained(task: Task) -> dict[str, str]:
    names = ("token", "sentence", "input", "answer", "explanation")
    return {name: getattr(task, name) for name in names}


async def model(request: web.Request) -> web.Response:
    """The default one's name."""
    return reply(request, request.app[MODELS][0].name)


async def status(request: web.Request) -> web.Response:
    """`?request_id=` narrows the queue that is shown down to that id."""
    app = request.app
    daemon = {
        "version": __version__,
        "instance_id": app[INSTANCE_ID],
        "uptime_s": time.monotonic() - app[STARTED_S],
    }
    return reply(request, {**daemon, **asdict(app[QUEUE].status(read(request.query, "request_id")))})


async def load(request: web.Request) -> web.Response:
    """Load ahead of time; answers when the model is there."""
    with counted(request):
        await request.app[QUEUE].load(_picked(request).name, read(request.query, "keep_alive"))
    return await status(request)


async def unload(request: web.Request) -> web.Response:
    """Give the device back now: 409 while busy, `?force=1` finishes the queue first."""
    with counted(request):
        await request.app[QUEUE].unload(force=bool(read(request.query, "force")))
    return await status(request)


async def health(request: web.Request) -> web.Response:
    """200 while the process can accept work; asleep is healthy."""
    check_live(request)
    return reply(request, {"status": "ok"}, "ok")


async def ready(request: web.Request) -> web.Response:
    """200 while it can serve (asleep counts); 503 with the reason while it leaves, or had better be left out."""
    return reply(request, {"status": "ready", "state": check_ready(request).state}, "ready")


async def metrics(request: web.Request) -> web.Response:
    """For Prometheus, always in its text format, whatever is asked for."""
    return web.Response(body=request.app[METRICS].text(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})
