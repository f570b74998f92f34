"""Ollama's calls: a prompt or a chat with pictures -> requests for the queue -> one object, or lines of JSON.

A chat counts by its last user message. Who sends neither text nor pictures wants the model loaded, or with
`keep_alive` 0 unloaded. Shapes and errors are in `ollama_replies`. Fields and options not known here are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from aiohttp import web

from .. import __version__
from ..errors import BadOption, BadRequest, ModelNotFound
from ..jobs import Outcome, Request
from ..served import Served
from .admission import admitted
from .bodies import parse_json, read_body
from .chats import Wording, ceiling, key_for, pieces, to_jobs, whole
from .fields import OPTIONS, read
from .keys import MODEL, MODELS, OUTCOMES, QUEUE, SETTINGS, STARTED_UNIX_S, STREAM
from .ollama_replies import LINES, Answer, error_line, listed, running, shown, tagged
from .prompting import prompt_fields
from .replies import server_timing
from .requests import pick
from .streams import Asked, Stream, asked, result_of, under_way

OURS = ("text_input", "region", "keep_alive")  # fields of `/process_image` that mean here what they mean there
_MOST_WITHOUT_PICTURES = 64 << 10  # bytes of a body that no admission has made room for
_NAMED = 100  # characters of a name that is unknown
_GENERATE = '{"model": "...", "prompt": "<CAPTION>", "images": ["<base64>"]}'
_CHAT = '{"model": "...", "messages": [{"role": "user", "content": "<CAPTION>", "images": ["<base64>"]}]}'
_SHOW = '{"model": "..."}'


@dataclass(frozen=True)
class Asking:
    """What is asked for. `brief` is set where it is no answer: that the model be loaded or unloaded."""

    model: Served
    answer: Answer
    stream: bool
    wording: Wording
    jobs: Sequence[Request] = ()
    brief: Literal["load", "unload"] | None = None
    keep_alive_s: float | None = None


@dataclass(frozen=True)
class _Said:
    """What counts of a body: `text` and `images` as they are written; all empty where nothing was said."""

    text: str = ""
    images: Sequence[object] = ()
    system: str = ""


async def generate(request: web.Request) -> web.StreamResponse:
    return await _answered(request, is_chat=False)


async def chat(request: web.Request) -> web.StreamResponse:
    return await _answered(request, is_chat=True)


async def _answered(request: web.Request, *, is_chat: bool) -> web.StreamResponse:
    """Who is refused is so before the body is read; the worker starts while it arrives. Nothing loads for mere talk."""
    queue = request.app[QUEUE]
    with admitted(request) as place:
        with queue.expect():
            asking = await _read(request, is_chat=is_chat)
        if asking.brief is not None:
            queue.forgo(place)
            return await _prepared(request, asking)
        async with asked(queue, asking.jobs, place) as tasks:
            if asking.stream:
                return await _streamed(request, asking, tasks)
            text = await whole(request, asking.jobs, tasks, asking.wording)
    outcomes: list[Outcome] = request[OUTCOMES]
    response = web.json_response(asking.answer.whole(text, outcomes))
    response.headers["Server-Timing"] = server_timing(outcomes)
    return response


async def _streamed(request: web.Request, asking: Asking, tasks: Asked) -> web.StreamResponse:
    stream, answer = _stream(request), asking.answer
    async for text in pieces(request, asking.jobs, tasks, asking.wording, stream, answer.ping):
        await stream.write(answer.piece(text))
    outcomes: list[Outcome] = request[OUTCOMES]
    await stream.write(answer.end(outcomes))
    return stream.response


async def _prepared(request: web.Request, asking: Asking) -> web.StreamResponse:
    """The model is loaded, or is gone."""
    assert asking.brief is not None
    queue, answer = request.app[QUEUE], asking.answer
    work = (
        queue.load(asking.model.name, asking.keep_alive_s)
        if asking.brief == "load"
        else queue.unload(force=True, model=asking.model.name)
    )
    async with under_way([work]) as tasks:
        if asking.stream:
            stream = _stream(request)
            await result_of(0, tasks, stream, answer.ping)
            await stream.write(answer.brief_end(asking.brief))
            return stream.response
        await tasks[0]
    return web.json_response(answer.brief(asking.brief))


def _stream(request: web.Request) -> Stream:
    return Stream(request, LINES, partial(request.__setitem__, STREAM), error_line)


async def _read(request: web.Request, *, is_chat: bool) -> Asking:
    settings, models = request.app[SETTINGS], request.app[MODELS]
    fields = parse_json(await read_body(request), _CHAT if is_chat else _GENERATE)
    model = _picked(fields, models)
    request[MODEL] = model.name
    said = _of_messages(fields.get("messages")) if is_chat else _of_prompt(fields)
    stream, keep_alive_s, options = read(fields, "stream"), read(fields, "keep_alive"), _options(fields, model)
    asking = partial(
        Asking,
        model,
        Answer(read(fields, "model") or tagged(model.name), is_chat),
        stream is not False,
        Wording(_key(fields.get("format"))),
    )
    if said is None:
        return asking(brief="unload" if keep_alive_s == 0 else "load", keep_alive_s=keep_alive_s)
    if not said.images:  # there is nothing that a text could ask for
        return asking()
    prompt = prompt_fields(said.text, model, settings, said.system)
    more = {name: fields[name] for name in OURS if fields.get(name) is not None}
    about = {"model": model.name, **prompt, **options, **more}
    return asking(jobs=await to_jobs(request, said.images, about))


def _of_prompt(fields: Mapping[str, Any]) -> _Said | None:
    """None where there is neither a text nor a picture."""
    said = _Said(_text(fields, "prompt"), _images(fields), _text(fields, "system"))
    return said if said.text or said.images else None


def _of_messages(messages: object) -> _Said | None:
    """None where there is no message."""
    if messages is None:
        return None
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise BadRequest(f"messages must be a list of objects, as in {_CHAT}.")
    user, system = (_last(messages, role) for role in ("user", "system"))
    return _Said(_text(user, "content"), _images(user), _text(system, "content")) if messages else None


def _last(messages: Sequence[Mapping[str, Any]], role: str) -> Mapping[str, Any]:
    return next((one for one in reversed(messages) if one.get("role") == role), {})


def _text(fields: Mapping[str, Any], name: str) -> str:
    text = fields.get(name)
    if text is not None and not isinstance(text, str):
        raise BadRequest(f"{name} must be text.")
    return text or ""


def _images(fields: Mapping[str, Any]) -> list[object]:
    images = fields.get("images")
    if images is not None and not isinstance(images, list):
        raise BadRequest("images must be a list of pictures in base64.")
    return images or []


def _options(fields: Mapping[str, Any], model: Served) -> dict[str, Any]:
    """Those of ours as they are, and the ceiling that `num_predict` is."""
    given = fields.get("options")
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise BadOption('The options must be an object like {"num_predict": 100}.')
    most = ceiling(read(given, "num_predict"), model)
    return most | {name: given[name] for name in OPTIONS if given.get(name) is not None}


def _key(form: object) -> str | None:
    """The name that a text has in an answer in JSON; None where that is not asked for."""
    if form is None or form == "":
        return None
    if form != "json" and not isinstance(form, dict):
        raise BadOption('format must be "json", or a JSON schema.')
    return key_for(form)


def _picked(fields: Mapping[str, Any], models: Sequence[Served]) -> Served:
    """Raises ModelNotFound in Ollama's words, which some clients look for."""
    name = read(fields, "model") or ""
    try:
        return pick(name, models)
    except ModelNotFound:
        raise ModelNotFound(f"model '{name[:_NAMED]}' not found") from None


async def tags(request: web.Request) -> web.Response:
    """What is configured, the default first."""
    started_s = request.app[STARTED_UNIX_S]
    return web.json_response({"models": [listed(model, started_s) for model in request.app[MODELS]]})


async def ps(request: web.Request) -> web.Response:
    """What is loaded: one or none."""
    now = request.app[QUEUE].status()
    loaded = [model for model in request.app[MODELS] if now.state == "ready" and model.name == now.model]
    return web.json_response({"models": [running(model, now) for model in loaded]})


async def show(request: web.Request) -> web.Response:
    """One of the models; older clients call it `name`."""
    fields = parse_json(await read_body(request, _MOST_WITHOUT_PICTURES), _SHOW)
    name = fields.get("model") or fields.get("name")
    if not name:
        raise BadRequest(f"model is required, as in {_SHOW}.")
    return web.json_response(shown(_picked({"model": name}, request.app[MODELS]), request.app[STARTED_UNIX_S]))


async def version(request: web.Request) -> web.Response:
    return web.json_response({"version": __version__})
