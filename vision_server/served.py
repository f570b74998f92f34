"""What the settings serve: each checkpoint with the options that hold for it, and where its files come from.

Looks at folders, asks no network. Which of them is loaded, and when, is `jobs`'.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    `adapter` is a folder with a LoRA adapter, absolute, or None. `aliases` are names that it answers to, unlisted.
    """

    checkpoint: Checkpoint
    device: str
    dtype: str
    adapter: Path | None
    prompts: tuple[str, ...]
    idle_timeout_s: float
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.checkpoint.name


def served(settings: Settings) -> tuple[Served, ...]:
    """What is served, the default first. Raises BadSetting for what cannot be: its message is for the operator."""
    models = _all_served(settings)
    aliases: dict[str, list[str]] = {model.name: [] for model in models}
    for alias, name in settings.model_aliases:
        model = find(name, models)
        if model is None:
            known = ", ".join(model.name for model in models)
            raise BadSetting(f"model_aliases: {alias}: {name} is not served; these are: {known}.")
        aliases[model.name].append(alias)
    return tuple(replace(model, aliases=tuple(aliases[model.name])) for model in models)


def find(name: str, models: Sequence[Served]) -> Served | None:
    """The one that `name` means, with or without `:latest`, in any letter case; None where it means none.

    Its own name comes first, then its repository's, then an alias.
    """
    wanted = name.lower().removesuffix(":latest")
    for names_of in (_own_name, _repository, _aliases):
        for model in models:
            if wanted in names_of(model):
                return model
    return None


def _own_name(model: Served) -> list[str]:
    return [model.name.lower()]


def _repository(model: Served) -> list[str]:
    return [(model.checkpoint.repository or model.name).lower()]


def _aliases(model: Served) -> list[str]:
    return [alias.lower().removesuffix(":latest") for alias in model.aliases]


def _all_served(settings: Settings) -> tuple[Served, ...]:
    if not settings.models:
        return (_alone(settings),)
    if settings.adapter is not None:
        raise BadSetting("adapter: with `models`, each of them names its own: give it to the one that it was made for.")
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


def alone(name: str, settings: Settings) -> Served:
    """What an operator means by `name`, for work without a daemon: one of `models` with its options, else as `named`.

    The setting `adapter` wins over the one of `models`. Raises BadSetting.
    """
    entry = next((entry for entry in settings.models if entry.name.lower() == name.lower()), None)
    if entry is None:
        own = settings.revision if name.lower() == settings.model.lower() else MAIN
        return _alone(replace(settings, models=(), model=name, revision=own))
    return _one_of_them(replace(entry, adapter=settings.adapter or entry.adapter), settings)


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
    adapter = _adapter(settings.adapter, "adapter")
    return Served(checkpoint, settings.device, settings.dtype, adapter, prompts, settings.idle_timeout_s)


def _one_of_them(entry: ModelEntry, settings: Settings) -> Served:
    checkpoint = _of_entry(entry, settings)
    return Served(
        checkpoint,
        device=entry.device or settings.device,
        dtype=entry.dtype or settings.dtype,
        adapter=_adapter(entry.adapter, f"models: {entry.name}"),
        prompts=entry.prompts or _advised(checkpoint, settings),
        idle_timeout_s=settings.idle_timeout_s if entry.idle_timeout_s is None else entry.idle_timeout_s,
    )


def _adapter(folder: Path | None, where: str) -> Path | None:
    if folder is not None and not (folder / "adapter_config.json").is_file():
        raise BadSetting(f"{where}: {folder} holds no adapter_config.json, so it is no adapter.")
    return folder


def _of_entry(entry: ModelEntry, settings: Settings) -> Checkpoint:
    """Under the name that `models` gives it."""
    try:
        return replace(resolve(entry.model, entry.revision or MAIN), name=entry.name)
    except BadSetting as error:
        raise BadSetting(f"models: {entry.name}: {error}") from None


def _advised(checkpoint: Checkpoint, settings: Settings) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*(checkpoint.prompts or STOCK), *settings.prompts)))
