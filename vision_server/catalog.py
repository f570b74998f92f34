"""The checkpoints that have a name, and what a `model` setting means. Reads no weights, asks no network.

A name from a request is never looked up here: only what the settings say becomes a folder or a repository.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import BadSetting
from .hub import is_repository, is_revision
from .tasks import TASKS

MAIN = "main"
EMBEDDED = Path(__file__).parent / "models" / "demo"

_PROMPTGEN_V1 = ("<GENERATE_PROMPT>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
_PROMPTGEN_V1_5 = ("<GENERATE_TAGS>", "<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>", "<MIXED_CAPTION>")
_PROMPTGEN_V2 = (*_PROMPTGEN_V1_5, "<MIXED_CAPTION_PLUS>", "<ANALYZE>")
_BASE_FP16, _BASE_FP32 = 468_000_000, 1_088_000_000  # the weights with what lies beside them
_LARGE_FP16, _LARGE_FP32 = 1_550_000_000, 3_300_000_000


@dataclass(frozen=True)
class Checkpoint:
    """Exactly one of `directory` and `repository` (at `revision`) is set; `name` is what clients see and send.

    `prompts` are advised, None where only the stock ones can be assumed; `size_bytes` is roughly what is downloaded.
    """

    name: str
    directory: Path | None = None
    repository: str | None = None
    revision: str = MAIN
    prompts: tuple[str, ...] | None = None
    family: str = ""
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        assert (self.directory is None) != (self.repository is None)


def _on_hub(
    name: str, repository: str, family: str, size_bytes: int, prompts: tuple[str, ...] | None = None
) -> Checkpoint:
    return Checkpoint(name, repository=repository, prompts=prompts, family=family, size_bytes=size_bytes)


_STOCK, _NATIVE = "Microsoft", "Microsoft, converted"
CATALOG: tuple[Checkpoint, ...] = (
    _on_hub("promptgen-large", "MiaoshouAI/Florence-2-large-PromptGen-v2.0", "PromptGen", _LARGE_FP32, _PROMPTGEN_V2),
    _on_hub("promptgen-base", "MiaoshouAI/Florence-2-base-PromptGen-v2.0", "PromptGen", _BASE_FP32, _PROMPTGEN_V2),
    _on_hub(
        "promptgen-large-v1.5", "MiaoshouAI/Florence-2-large-PromptGen-v1.5", "PromptGen", _LARGE_FP32, _PROMPTGEN_V1_5
    ),
    _on_hub(
        "promptgen-base-v1.5", "MiaoshouAI/Florence-2-base-PromptGen-v1.5", "PromptGen", _BASE_FP32, _PROMPTGEN_V1_5
    ),
    _on_hub("promptgen-base-v1", "MiaoshouAI/Florence-2-base-PromptGen", "PromptGen", _BASE_FP32, _PROMPTGEN_V1),
    _on_hub("large", "microsoft/Florence-2-large", _STOCK, _LARGE_FP16),
    _on_hub("large-ft", "microsoft/Florence-2-large-ft", _STOCK, _LARGE_FP16),
    _on_hub("base", "microsoft/Florence-2-base", _STOCK, _BASE_FP16),
    _on_hub("base-ft", "microsoft/Florence-2-base-ft", _STOCK, _BASE_FP16),
    _on_hub("large-native", "florence-community/Florence-2-large", _NATIVE, _LARGE_FP16),
    _on_hub("large-ft-native", "florence-community/Florence-2-large-ft", _NATIVE, _LARGE_FP16),
    _on_hub("base-native", "florence-community/Florence-2-base", _NATIVE, _BASE_FP16),
    _on_hub("base-ft-native", "florence-community/Florence-2-base-ft", _NATIVE, _BASE_FP16),
    Checkpoint(
        "demo",
        EMBEDDED,
        prompts=tuple(task.token for task in TASKS),
        family="embedded",
    ),
)
"""Every checkpoint that has a short name; the first is the default, `demo` is the one that needs no download."""


def resolve(model: str, revision: str = MAIN) -> Checkpoint:
    """The checkpoint that `model` means: a name of the catalogue, a folder, or a repository `owner/name`.

    In this order, so that a folder which looks like a repository is the folder. Nobody is asked whether the repository
    exists. Raises BadSetting, for the operator: its message may hold the path that was given.
    """
    known = {checkpoint.name: checkpoint for checkpoint in CATALOG}
    if (named := known.get(model.lower())) is not None:
        return _at(named, model, revision)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _at(Checkpoint(folder.resolve().name, folder.resolve()), model, revision)
    if is_repository(model):
        row = next((one for one in CATALOG if (one.repository or "").lower() == model.lower()), None)
        if row is not None:
            return _at(replace(row, name=str(row.repository)), model, revision)
        return _at(Checkpoint(model, repository=model), model, revision)
    near = difflib.get_close_matches(model.lower(), known, n=1)
    hint = f"Did you mean {near[0]}?" if near else "`vision-server models` lists the names."
    raise BadSetting(f"model {model}: no checkpoint has this name, and there is no such folder. {hint}")


def _at(checkpoint: Checkpoint, model: str, revision: str) -> Checkpoint:
    if not is_revision(revision):
        raise BadSetting(f"model {model}: {revision!r} is no revision; give a branch, a tag or a commit.")
    if checkpoint.directory is None:
        return replace(checkpoint, revision=revision)
    if revision != MAIN:
        raise BadSetting(f"model {model}: a folder has no revisions, so revision {revision} means nothing.")
    if not (checkpoint.directory / "config.json").is_file():
        raise BadSetting(f"model {model}: {checkpoint.directory} holds no config.json, so no checkpoint is in it.")
    return checkpoint
