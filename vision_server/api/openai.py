"""OpenAI's calls: a chat with pictures -> requests for the queue -> a completion, whole or as server-sent events.

Of a chat counts its last user message: its text says the prompt (`prompting`), and each of its pictures is asked by
itself. Shapes and errors are in `openai_replies`. Fields that are not known here are ignored, as other servers do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web

from ..errors import BadImage, BadOption, BadRequest
from ..jobs import Outcome, Request
from ..served import Served
from .admission import admitted
from .bodies import parse_json, read_body
from .chats import Wording, ceiling, key_for, pieces, to_jobs, whole
from .fields import OPTIONS, read
from .keys import MODEL, MODELS, OUTCOMES, QUEUE, SETTINGS, STARTED_UNIX_S, STREAM
from .openai_replies import EVENTS, PING, Completion, error_event, model_card
from .prompting import prompt_fields
from .replies import server_timing
from .requests import pick
from .streams import Asked, Stream, asked

OURS = (*OPTIONS, "text_input", "region", "keep_alive")  # fields of `/process_image` that are taken here, too
_EXAMPLE = '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:..."}}]}]}'


@dataclass(frozen=True)
class Chat:
    """What is asked: one job for each picture, and how the answer is to come."""

    model: Served
    jobs: Sequence[Request]
    wording: Wording
    choices: int
    stream: bool
    include_usage: bool


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Who is refused is so before the body is read; the worker starts while it arrives. Nothing loads for mere talk."""
    queue = request.app[QUEUE]
    with admitted(request) as place:
        with queue.expect():
            chat = await _read(request)
        completion = Completion(chat.model.name, chat.choices)
        async with asked(queue, chat.jobs, place) as tasks:
            if chat.stream:
                return await _streamed(request, chat, completion, tasks)
            text = await whole(request, chat.jobs, tasks, chat.wording)
    outcomes: list[Outcome] = request[OUTCOMES]
    response = web.json_response(completion.whole(text, outcomes))
    response.headers["Server-Timing"] = server_timing(outcomes)
    return response


async def _streamed(request: web.Request, chat: Chat, completion: Completion, tasks: Asked) -> web.StreamResponse:
    """Comments while there is no answer keep proxies and clients from giving up."""
    stream = Stream(request, f"{EVENTS}; charset=utf-8", partial(request.__setitem__, STREAM), error_event)
    head = completion.first(chat.include_usage)
    async for text in pieces(request, chat.jobs, tasks, chat.wording, stream, PING):
        await stream.write(head + completion.piece(text, chat.include_usage))
        head = b""
    outcomes: list[Outcome] = request[OUTCOMES]
    await stream.write(completion.last(outcomes, chat.include_usage))
    return stream.response


async def _read(request: web.Request) -> Chat:
    settings, models = request.app[SETTINGS], request.app[MODELS]
    fields = parse_json(await read_body(request), _EXAMPLE)
    model = pick(read(fields, "model") or "", models)
    request[MODEL] = model.name
    messages = _messages(fields.get("messages"))
    text, images = _said_by(messages, "user")
    wording = Wording(_key(fields.get("response_format")))
    choices, stream, stream_options = read(fields, "n"), read(fields, "stream"), fields.get("stream_options")
    most, newer = read(fields, "max_tokens"), read(fields, "max_completion_tokens")
    asked_for: dict[str, Any] = {"model": model.name, **ceiling(most if newer is None else newer, model)}
    if images:  # else there is nothing that a text could ask for
        asked_for |= prompt_fields(text, model, settings, _said_by(messages, "system", "developer")[0])
    asked_for |= {name: fields[name] for name in OURS if fields.get(name) is not None}
    jobs = await to_jobs(request, images, asked_for)
    include_usage = isinstance(stream_options, dict) and stream_options.get("include_usage") is True
    return Chat(model, jobs, wording, choices or 1, bool(stream), include_usage)


def _messages(messages: object) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise BadRequest(f"messages must be a list of objects, such as {_EXAMPLE}.")
    return messages


def _said_by(messages: Sequence[Mapping[str, Any]], *roles: str) -> tuple[str, list[str]]:
    """Text and pictures (as they are written) of the last message of such a role. Raises BadRequest, BadImage."""
    content = next((one.get("content") for one in reversed(messages) if one.get("role") in roles), None)
    parts = content if isinstance(content, list) else [] if content is None else [content]
    texts: list[str] = []
    images: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, dict):
            raise BadRequest("The content of a message must be text, or a list of parts that are objects.")
        elif part.get("image_url") is not None or part.get("type") == "image_url":
            images.append(_written(part.get("image_url")))
        elif isinstance(part.get("text"), str):
            texts.append(part["text"])
    return "\n".join(texts), images


def _written(image_url: object) -> str:
    """`{"url": ...}`, or the bare text."""
    url = image_url.get("url") if isinstance(image_url, dict) else image_url
    if not isinstance(url, str) or not url.strip():
        raise BadImage('An image_url must be {"url": "data:image/png;base64,..."}.')
    return url


def _key(form: object) -> str | None:
    """The name that a text has in an answer in JSON; None where that is not asked for."""
    match form:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return key_for(None)
        case {"type": "json_schema", "json_schema": dict(named)}:
            return key_for(named.get("schema"))
    raise BadOption('response_format must have the type "text", "json_object", or "json_schema" with its json_schema.')


async def models(request: web.Request) -> web.Response:
    """What is configured, the default first."""
    cards = [model_card(one.name, request.app[STARTED_UNIX_S]) for one in request.app[MODELS]]
    return web.json_response({"object": "list", "data": cards})


async def model(request: web.Request) -> web.Response:
    found = pick(request.match_info["id"], request.app[MODELS])
    return web.json_response(model_card(found.name, request.app[STARTED_UNIX_S]))
