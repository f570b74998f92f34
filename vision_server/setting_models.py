"""The setting `models`: several checkpoints by name, each with its own options. Read and checked; nothing is looked up.

It is a mapping of mappings, so that it stands in the YAML file only.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .setting_kinds import DEVICE, DTYPE, FOLDER, IDLE, PROMPTS, TEXT, Kind

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)  # clients put it into paths, and `:latest` behind it
_MAX_NAME = 100


@dataclass(frozen=True)
class ModelEntry:
    """One name of `models`. `model` is what the setting of that name takes; None means: as the settings say,
    and for a revision the main branch."""

    name: str
    model: str
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    adapter: Path | None = None
    prompts: tuple[str, ...] | None = None
    idle_timeout_s: float | None = None


_OPTIONS: dict[str, Kind] = {
    "model": TEXT,
    "revision": TEXT,
    "device": DEVICE,
    "dtype": DTYPE,
    "adapter": FOLDER,
    "prompts": PROMPTS,
    "idle_timeout_s": IDLE,
}
assert [*_OPTIONS] == [f.name for f in fields(ModelEntry)][1:]


def _models(raw: object) -> tuple[ModelEntry, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, dict):
        raise ValueError(f"must be a mapping of names, each with its options, not {raw!r}.")
    entries = tuple(_entry(name, options) for name, options in raw.items())
    if len({entry.name.lower() for entry in entries}) < len(entries):
        raise ValueError("must not hold a name twice, whatever its letter case.")
    return entries


def _entry(name: object, options: object) -> ModelEntry:
    if not isinstance(name, str) or len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise ValueError(f"must hold names of letters, digits and ._-, such as base or owner/name, not {name!r}.")
    if options is None:
        options = {}
    if not isinstance(options, dict):
        raise ValueError(f"must hold options below {name}, as lines of `name: value`, not {options!r}.")
    values: dict[str, Any] = {"model": name}
    for key, value in options.items():
        if key not in _OPTIONS:
            near = difflib.get_close_matches(str(key), _OPTIONS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_OPTIONS)}."
            raise ValueError(f"must hold known options only: {name} has no {key}; {hint}")
        try:
            values[key] = _OPTIONS[key].parse(value)
        except ValueError as error:
            raise ValueError(f"must hold sound options: {key} of {name} {error}") from None
    return ModelEntry(name, **values)


MODELS = Kind("MAPPING", _models)
