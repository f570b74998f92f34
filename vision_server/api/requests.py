"""Fields -> a request for the queue. Prompt, input, options, model and keep-alive are checked before anything waits.

The picture is checked where it is read, in `bodies`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ModelNotFound
from ..jobs import Options, Request
from ..served import Served, find
from ..settings import Settings
from ..tasks import check_input, lookup
from .fields import OPTIONS, read


def max_pixels(settings: Settings) -> int:
    return int(settings.max_pixels_m * 1_000_000)


def to_request(fields: Mapping[str, Any], request_id: str, models: Sequence[Served], settings: Settings) -> Request:
    """Raises BadRequest, UnknownPrompt, BadInput, BadOption, PromptTooLong, ModelNotFound."""
    model = pick(read(fields, "model") or "", models)
    task = lookup(read(fields, "prompt") or settings.default_prompt, model.prompts)
    text, region = read(fields, "text_input") or "", read(fields, "region")
    check_input(task, text, region)
    return Request(
        request_id=request_id,
        model=model.name,
        image=fields["image"],
        task=task.token,
        text=text,
        region=region,
        options=options_of(fields),
        keep_alive_s=read(fields, "keep_alive"),
    )


def pick(name: str, models: Sequence[Served]) -> Served:
    """The one that `name` means, without a name the first. Raises ModelNotFound, which lists what there is."""
    model = find(name, models) if name else models[0]
    if model is None:
        names = ", ".join(model.name for model in models)
        raise ModelNotFound(f"This server has no such model: leave it out, or name one of these: {names}.")
    return model


def options_of(fields: Mapping[str, Any]) -> Options:
    """How to decode, from `options` (an object, or its JSON text) or from fields of an option's name."""
    given = {name: fields[name] for name in OPTIONS if name in fields} | (read(fields, "options") or {})
    return Options(**{name: read(given, name) for name, raw in given.items() if raw is not None})
