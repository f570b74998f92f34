"""The checkpoints that have a name, and how a `model` setting becomes a directory. Reads no weights and no network."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from .errors import BadSetting


@dataclass(frozen=True)
class Checkpoint:
    """`name` is what clients see; `prompts` are advised to them, None where only the stock ones can be assumed."""

    name: str
    directory: Path
    prompts: tuple[str, ...] | None


_EMBEDDED = {
    "demo": Checkpoint(
        "demo",
        Path(__file__).parent / "models" / "demo",
        ("<CAPTION>", "<DETAILED_CAPTION>", "<OD>", "<OCR>", "<GENERATE_TAGS>"),
    )
}


def resolve(model: str) -> Checkpoint:
    """The checkpoint called `model`, or the one in the folder `model`.

    Raises BadSetting, for the operator: its message may hold the path that was given.
    """
    named = _EMBEDDED.get(model.lower())
    if named is not None:
        _require_config(named.directory, model)
        return named
    folder = Path(model).expanduser()
    if folder.is_dir():
        _require_config(folder, model)
        return Checkpoint(folder.resolve().name, folder.resolve(), None)
    near = difflib.get_close_matches(model, _EMBEDDED, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise BadSetting(f"model {model}: no checkpoint has this name, and there is no such folder.{hint}")


def _require_config(directory: Path, model: str) -> None:
    if not (directory / "config.json").is_file():
        raise BadSetting(f"model {model}: {directory} holds no config.json, so there is no checkpoint in it.")
