"""Fields -> a request for the queue. Prompt, input, options, model and keep-alive are checked before anything waits."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .. import images
from ..errors import BadInput, BadOption, BadRequest, ModelNotFound
from ..jobs import Options, Request
from ..served import Served
from ..settings import Settings
from ..tasks import check_input, lookup

_NEVER_S = -1.0
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(-?)((?:\d+(?:\.\d+)?(?:ns|us|ms|s|m|h))+)")


def max_pixels(settings: Settings) -> int:
    return int(settings.max_pixels_m * 1_000_000)


def to_request(fields: Mapping[str, Any], request_id: str, models: Sequence[Served], settings: Settings) -> Request:
    """Raises BadRequest, UnknownPrompt, BadInput, BadOption, PromptTooLong, ModelNotFound, and as `images.check`."""
    model = pick(_text(fields, "model"), models)
    task = lookup(_text(fields, "prompt") or settings.default_prompt, model.prompts)
    text, region = _text(fields, "text_input"), _region(fields.get("region"))
    check_input(task, text, region)
    image = fields["image"]
    images.check(image, max_pixels(settings))
    return Request(
        request_id=request_id,
        model=model.name,
        image=image,
        task=task.token,
        text=text,
        region=region,
        options=options_of(fields),
        keep_alive_s=keep_alive_s(fields.get("keep_alive")),
    )


def pick(name: str, models: Sequence[Served]) -> Served:
    """The one that `name` means: its own name or else its repository's, with or without `:latest`, in any letter case.

    Without a name the first. Raises ModelNotFound, which lists what there is.
    """
    wanted = name.lower().removesuffix(":latest")
    on_hub = [(model.checkpoint.repository, model) for model in reversed(models)]
    by_repository = {repository.lower(): model for repository, model in on_hub if repository}
    by_name = {model.name.lower(): model for model in models}
    model = (by_repository | by_name).get(wanted) if name else models[0]
    if model is None:
        names = ", ".join(model.name for model in models)
        raise ModelNotFound(f"This server has no such model: leave it out, or name one of these: {names}.")
    return model


def options_of(fields: Mapping[str, Any]) -> Options:
    """How to decode, from `options` (an object, or its JSON text) or from fields of an option's name."""
    given = fields.get("options")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise BadOption('The options are not JSON: send them like {"num_beams": 3}.') from None
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise BadOption('The options must be an object like {"num_beams": 3}.')
    if unknown := set(given) - set(_OPTIONS):
        raise BadOption(f"There is no option {min(unknown)[:40]!r}: the options are {', '.join(_OPTIONS)}.")
    given = {**{name: fields[name] for name in _OPTIONS if name in fields}, **given}
    return Options(**{name: _OPTIONS[name](name, raw) for name, raw in given.items() if raw is not None})


def keep_alive_s(raw: object) -> float | None:
    """Seconds from a number, "300" or "5m"; 0 as given, anything negative is forever. None where nothing was said."""
    if raw is None or raw == "":
        return None
    if isinstance(raw, str) and (match := _DURATION.fullmatch(raw.strip())):
        seconds = sum(float(n) * _UNIT_S[unit] for n, unit in re.findall(r"([\d.]+)([a-z]+)", match[2]))
        seconds = -seconds if match[1] else seconds
    else:
        seconds = _number(raw)
    if not math.isfinite(seconds) or seconds > 1e9:
        raise BadOption('keep_alive must be seconds, a time like "5m", 0 or -1 (forever).')
    return _NEVER_S if seconds < 0 else seconds


def flag(fields: Mapping[str, Any], name: str) -> bool:
    """A yes or no beside the request; absent is no. Raises BadRequest."""
    value = {"true": True, "1": True, "false": False, "0": False, "": False}.get(str(fields.get(name, "")).lower())
    if value is None:
        raise BadRequest(f"{name} must be true or false.")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be text.")
    return value


def _region(value: object) -> str | tuple[float, ...] | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str):
        return value
    raise BadInput("The region must be four numbers [x1, y1, x2, y2], or four <loc_n>.")


def _number(raw: object) -> float:
    """NaN for everything that is no number, which no range includes."""
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        return math.nan
    try:
        return float(raw)
    except (ValueError, OverflowError):
        return math.nan


def _whole(low: int, high: int) -> Any:
    def parse(name: str, raw: object) -> int:
        value = _number(raw)
        if not low <= value <= high or value != int(value):
            raise BadOption(f"{name} must be a whole number from {low} to {high}.")
        return int(value)

    return parse


def _between(low: float, high: float) -> Any:
    def parse(name: str, raw: object) -> float:
        value = _number(raw)
        if not low <= value <= high:
            raise BadOption(f"{name} must be a number from {low:g} to {high:g}.")
        return value

    return parse


def _switch(name: str, raw: object) -> bool:
    try:
        return flag({name: raw}, name)
    except BadRequest as error:
        raise BadOption(str(error)) from None


_OPTIONS = {
    "num_beams": _whole(1, 8),
    "max_new_tokens": _whole(1, 4096),
    "no_repeat_ngram_size": _whole(0, 64),
    "length_penalty": _between(-8.0, 8.0),
    "early_stopping": _switch,
}
