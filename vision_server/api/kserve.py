"""KServe v2's calls, as Triton serves them: tensors -> requests for the queue -> a tensor of answers.

The bodies are read and written in `tensors`. The default model answers to `florence2`, too, under which the clients of
a Triton deployment know it; every model has one version. What looks, only looks: it never loads a model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import hdrs, web

from .. import __version__, images
from ..errors import BadRequest, ModelNotFound
from ..jobs import Outcome, Request
from ..served import Served, find
from .admission import admitted, counted
from .bodies import parse_json, picture, read_body
from .fields import OPTIONS, read
from .keys import MODEL, MODELS, OUTCOMES, QUEUE, REQUEST_ID, SETTINGS, STATISTICS
from .probes import check_live, check_ready
from .prompting import named_prompt
from .replies import preferred, result, server_timing
from .requests import to_request
from .statistics import Figures
from .streams import all_results, asked, telling_which
from .tensors import (
    DATATYPE,
    IMAGE,
    INPUTS,
    JSON_LENGTH,
    MAX_BATCH,
    OPTIONAL,
    OUTPUT,
    TASK,
    TEXT,
    VERSION,
    Inference,
    read_inference,
    text_of,
    write_inference,
)

DEFAULT_NAME = "florence2"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
PARAMETERS = (*OPTIONS, "keep_alive")  # of an inference, fields of `/process_image` that are taken here, too
BINARY = "application/octet-stream"
_PLATFORM = "vision-server"
_UNKNOWN = "Request for unknown model"
_SHOWN = 100  # characters of a name or version that is unknown
_MAX_ORDER_BYTES = 1 << 16  # the body of a call without a picture


@dataclass(frozen=True)
class Named:
    """A model, under the name that it was asked for."""

    name: str
    model: Served


def named(models: Sequence[Served]) -> list[Named]:
    """All that are served, the default one twice, as `florence2` first."""
    of_their_own = [Named(model.name, model) for model in models]
    taken = any(model.name.lower() == DEFAULT_NAME for model in models)
    return of_their_own if taken else [Named(DEFAULT_NAME, models[0]), *of_their_own]


def _asked_for(request: web.Request) -> Named:
    """What the path names. Raises ModelNotFound, which begins with Triton's words for it."""
    models, name, version = request.app[MODELS], request.match_info["model"], request.match_info.get("version", VERSION)
    model = find(name, models)
    if model is not None:
        to = Named(model.name, model)
    elif name.lower().removesuffix(":latest") == DEFAULT_NAME:
        to = Named(DEFAULT_NAME, models[0])
    else:
        known = ", ".join(one.name for one in named(models))
        raise ModelNotFound(f"{_UNKNOWN}: '{name[:_SHOWN]}' is not found. There are: {known}.")
    if version != VERSION:
        words = f"{_UNKNOWN}: '{name[:_SHOWN]}' version {version[:_SHOWN]} is not found."
        raise ModelNotFound(f"{words} Leave the version out, or ask for {VERSION}.")
    return to


async def infer(request: web.Request) -> web.Response:
    """Who is refused is so before the body is read; the worker starts while it arrives."""
    to, queue = _asked_for(request), request.app[QUEUE]
    request[MODEL] = to.model.name
    with admitted(request) as place:
        with queue.expect():
            inference = read_inference(await read_body(request), request.headers.get(JSON_LENGTH))
            jobs = await _jobs(request, inference, to.model)
        async with asked(queue, jobs, place) as tasks:
            outcomes = await all_results(tasks)
    request[OUTCOMES].extend(outcomes)
    body, json_bytes = write_inference(to.name, inference, [_said(*one) for one in zip(jobs, outcomes, strict=True)])
    response = web.Response(body=body, content_type="application/json" if json_bytes is None else BINARY)
    if json_bytes is not None:
        response.headers[JSON_LENGTH] = str(json_bytes)
    if coding := preferred(request.headers.get(hdrs.ACCEPT_ENCODING, ""), ("gzip", "deflate")):
        response.enable_compression(web.ContentCoding(coding))
    response.headers["Server-Timing"] = server_timing(outcomes)
    return response


async def _jobs(request: web.Request, inference: Inference, model: Served) -> list[Request]:
    """One for each picture. Raises what is wrong with any of them."""
    settings, models = request.app[SETTINGS], request.app[MODELS]
    how = {name: inference.parameters[name] for name in PARAMETERS if inference.parameters.get(name) is not None}
    texts = inference.inputs.get(TEXT, [""] * inference.pictures)
    rows = zip(inference.inputs[IMAGE], inference.inputs[TASK], texts, strict=True)
    jobs: list[Request] = []
    for number, (image, task, text) in enumerate(rows):
        with telling_which(number, inference.pictures):
            prompt = named_prompt(text_of(TASK, task), text_of(TEXT, text), model, settings)
            file = await picture(request, _written(image), sum(len(job.image) for job in jobs))
            fields = {**how, **prompt, "model": model.name, "image": file}
            jobs.append(to_request(fields, request[REQUEST_ID], models, settings))
    return jobs


def _written(image: bytes | str) -> bytes | str:
    """Bytes that are no picture are the text of one."""
    if isinstance(image, bytes) and images.sniff(image) is None:
        with suppress(UnicodeDecodeError):
            return image.decode("ascii")
    return image


def _said(job: Request, outcome: Outcome) -> str:
    return json.dumps({job.task: result(job, outcome)}, ensure_ascii=False)


async def server(request: web.Request) -> web.Response:
    return web.json_response({"name": _PLATFORM, "version": __version__, "extensions": EXTENSIONS})


async def live(request: web.Request) -> web.Response:
    check_live(request)
    return web.json_response({"live": True})


async def ready(request: web.Request) -> web.Response:
    check_ready(request)
    return web.json_response({"ready": True})


async def model_ready(request: web.Request) -> web.Response:
    """Asleep is ready, as everywhere."""
    to = _asked_for(request)
    check_ready(request, to.model.name)
    return web.json_response({"name": to.name, "ready": True})


async def model(request: web.Request) -> web.Response:
    """What it takes and what it answers."""
    inputs = [{"name": name, "datatype": DATATYPE, "shape": [-1, 1]} for name in INPUTS]
    outputs = [{"name": OUTPUT, "datatype": DATATYPE, "shape": [-1, 1]}]
    described = {"versions": [VERSION], "platform": _PLATFORM, "inputs": inputs, "outputs": outputs}
    return web.json_response({"name": _asked_for(request).name, **described})


async def config(request: web.Request) -> web.Response:
    """The same as a model's configuration has it."""
    tensor = {"data_type": "TYPE_STRING", "dims": [1]}
    inputs = [{"name": name, **tensor, "optional": name in OPTIONAL} for name in INPUTS]
    described = {"platform": "", "backend": _PLATFORM, "max_batch_size": MAX_BATCH, "input": inputs}
    return web.json_response({"name": _asked_for(request).name, **described, "output": [{"name": OUTPUT, **tensor}]})


async def statistics(request: web.Request) -> web.Response:
    """Of one model, or of all."""
    one = "model" in request.match_info
    of = [_asked_for(request)] if one else named(request.app[MODELS])
    shown = [_figures(to.name, request.app[STATISTICS].of(to.model.name)) for to in of]
    return web.json_response({"model_stats": shown})


def _figures(name: str, figures: Figures) -> dict[str, Any]:
    """Requests join running batches and leave them by themselves, so none of these has a size to tell figures of."""

    def stat(count: int, seconds: float) -> dict[str, int]:
        return {"count": count, "ns": round(seconds * 1e9)}

    return {
        "name": name,
        "version": VERSION,
        "last_inference": figures.last_unix_ms,
        "inference_count": figures.pictures,
        "execution_count": figures.pictures,
        "inference_stats": {
            "success": stat(figures.successes, figures.success_s),
            "fail": stat(figures.failures, figures.failure_s),
            "queue": stat(figures.successes, figures.queue_s),
            "compute_input": stat(figures.successes, figures.decode_s),
            "compute_infer": stat(figures.successes, figures.infer_s),
            "compute_output": stat(figures.successes, 0.0),
            "cache_hit": stat(0, 0.0),  # answers are not kept
            "cache_miss": stat(0, 0.0),
        },
        "batch_stats": [],
    }


async def index(request: web.Request) -> web.Response:
    """Every name with its state; with `ready` only those that can serve."""
    only_ready = (await _order(request)).get("ready", False)
    if not isinstance(only_ready, bool):
        raise BadRequest("ready must be true or false.")
    now = request.app[QUEUE].status()
    reasons = {model: f"The last load failed: {now.failures[model]}" for model in now.unready_s}
    if now.draining:
        reasons = dict.fromkeys(now.models, "The server is shutting down.")
    listed = []
    for to in named(request.app[MODELS]):
        reason = reasons.get(to.model.name)
        if reason is None or not only_ready:
            state = {"state": "READY" if reason is None else "UNAVAILABLE", "reason": reason or ""}
            listed.append({"name": to.name, "version": VERSION, **state})
    return web.json_response(listed)


async def load(request: web.Request) -> web.Response:
    """Load ahead of time; answers when the model is there."""
    to = _asked_for(request)
    with counted(request):
        if (await _order(request)).get("parameters"):
            raise BadRequest("Checkpoints and their options are the operator's to choose: send no config and no files.")
        await request.app[QUEUE].load(to.model.name)
    return web.json_response({})


async def unload(request: web.Request) -> web.Response:
    """Give the device back now, where this model has it: 409 while busy, `?force=1` finishes the queue first."""
    to = _asked_for(request)
    force = bool(read(request.query, "force"))
    with counted(request):
        await request.app[QUEUE].unload(force, to.model.name)
    return web.json_response({})


async def _order(request: web.Request) -> dict[str, Any]:
    """The JSON of a call that need not have any."""
    body = await read_body(request, _MAX_ORDER_BYTES)
    return parse_json(body, "{}") if body.strip() else {}
