"""What the settings serve: each checkpoint with the options that hold for it, and where its files come from.

Looks at folders, asks no network. Which of them is loaded, and when, is `jobs`'.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from .catalog import MAIN, Checkpoint, resolve
from .errors import BadSetting
from .hub import Source
from .setting_models import ModelEntry
from .settings import Settings
from .tasks import STOCK

# A download is to give up by itself, even one that connects anew first, before its worker is taken for stuck.
_OF_LOAD_STALL = 0.5


@dataclass(frozen=True)
class Served:
    """One checkpoint that requests may name, by `checkpoint.name`. `prompts` are all that are advised for it.

    `adapter` is a folder with a LoRA adapter, absolute, or None.
    """

    checkpoint: Checkpoint
    device: str
    dtype: str
    adapter: Path | None
    prompts: tuple[str, ...]
    idle_timeout_s: float

    @property
    def name(self) -> str:
        return self.checkpoint.name


def served(settings: Settings) -> tuple[Served, ...]:
    """What is served, the default first. Raises BadSetting for what cannot be: its message is for the operator."""
    if not settings.models:
        return (_alone(settings),)
    chosen = settings.model.lower()
    names = [entry.name.lower() for entry in settings.models]
    if chosen not in names:
        known = ", ".join(entry.name for entry in settings.models)
        raise BadSetting(f"model {settings.model}: with `models`, it names the default one of them: {known}.")
    first = names.index(chosen)
    entries = [settings.models[first], *settings.models[:first], *settings.models[first + 1 :]]
    return tuple(_one_of_them(entry, settings) for entry in entries)


def named(name: str, settings: Settings, revision: str | None = None) -> Checkpoint:
    """The checkpoint that an operator means by `name`: one of `models`, else as `resolve` says. Raises BadSetting."""
    entry = next((entry for entry in settings.models if entry.name.lower() == name.lower()), None)
    if entry is None:
        own = settings.revision if name.lower() == settings.model.lower() else MAIN
        return resolve(name, revision or own)
    return _of_entry(replace(entry, revision=revision or entry.revision), settings)


def source(checkpoint: Checkpoint, settings: Settings) -> Source | None:
    """Where its files come from, as the settings say; None for one that lies in a folder."""
    if checkpoint.repository is None:
        return None
    return Source(
        checkpoint.repository,
        checkpoint.revision,
        token=settings.hf_token,
        cache=settings.cache_dir,
        offline=settings.offline,
        endpoint=settings.hf_endpoint,
        stall_timeout_s=min(settings.download_stall_timeout_s, _OF_LOAD_STALL * settings.load_stall_timeout_s),
    )


def _alone(settings: Settings) -> Served:
    checkpoint = resolve(settings.model, settings.revision)
    prompts = _advised(checkpoint, settings)
    return Served(checkpoint, settings.device, settings.dtype, None, prompts, settings.idle_timeout_s)


def _one_of_them(entry: ModelEntry, settings: Settings) -> Served:
    checkpoint = _of_entry(entry, settings)
    if entry.adapter is not None and not (entry.adapter / "adapter_config.json").is_file():
        raise BadSetting(f"models: {entry.name}: {entry.adapter} holds no adapter_config.json, so it is no adapter.")
    return Served(
        checkpoint,
        device=entry.device or settings.device,
        dtype=entry.dtype or settings.dtype,
        adapter=entry.adapter,
        prompts=entry.prompts or _advised(checkpoint, settings),
        idle_timeout_s=settings.idle_timeout_s if entry.idle_timeout_s is None else entry.idle_timeout_s,
    )


def _of_entry(entry: ModelEntry, settings: Settings) -> Checkpoint:
    """Under the name that `models` gives it."""
    try:
        return replace(resolve(entry.model, entry.revision or MAIN), name=entry.name)
    except BadSetting as error:
        raise BadSetting(f"models: {entry.name}: {error}") from None


def _advised(checkpoint: Checkpoint, settings: Settings) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*(checkpoint.prompts or STOCK), *settings.prompts)))
