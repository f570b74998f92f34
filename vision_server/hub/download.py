"""Which files of a repository a checkpoint needs, and fetching just those. How a byte travels is `commit`'s."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import CheckpointError, LoadFailed, VisionError
from .commit import ANSWER_TIMEOUT_S, Commit, File
from .faults import explained, no_hub
from .source import Source, require_possible

PHASE = "download"
Report = Callable[[str, int, int], None]  # (PHASE, bytes_done, bytes_total); a total of 0 is not known yet

_REQUIRED = ("config.json", "tokenizer.json")
_USEFUL = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_INDEX = ".index.json"

_COMMIT = re.compile(r"[0-9a-f]{40}")


def cached(source: Source) -> Path | None:
    """The directory of `source` if all that loading needs is on this disk, else None. Asks nobody.

    Raises CheckpointError for a repository or revision that cannot be one, LoadFailed if the cache cannot be read.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    require_possible(source)
    try:
        config = try_to_load_from_cache(source.repository, "config.json", source.cache, source.revision)
        folder = Path(config).parent if isinstance(config, str) else None
        return folder if folder is not None and _is_complete(folder) else None
    except (HFValidationError, OSError) as error:
        raise explained(error, source.repository, source.revision) from error


def fetch(source: Source, report: Report = lambda phase, done, total: None, *, refresh: bool = False) -> Path:
    """The directory of `source`, downloaded first where the cache lacks something.

    What is complete in the cache is used without asking the hub; `refresh` asks whether the revision has moved. What
    arrived before an error is kept, and the next call goes on from there; `report` may raise a VisionError to end it.
    A refresh that fails leaves what was there before in place.
    Raises LoadFailed (trying again may help) and CheckpointError (it will not).
    """
    import httpx2
    from huggingface_hub import is_offline_mode

    offline = source.offline or is_offline_mode()
    folder = cached(source)
    if folder is not None and (offline or not refresh):
        return folder
    if offline:
        raise LoadFailed(
            f"{source.repository} is not complete on this machine, and offline mode keeps it from being downloaded: "
            "leave offline mode once, or choose another model."
        )
    report(PHASE, 0, 0)
    try:
        return _download(source, report)
    except VisionError:
        raise
    except (OSError, ValueError, httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise explained(error, source.repository, source.revision) from error


def _is_complete(folder: Path) -> bool:
    if not all((folder / name).is_file() for name in _REQUIRED):
        return False
    for name in _WEIGHTS:
        if (folder / name).is_file():
            shards = _shards(folder / name) if name.endswith(_INDEX) else []
            return all((folder / shard).is_file() for shard in shards)
    return False


def _shards(index: Path) -> list[str]:
    """The files that `index` names. Raises CheckpointError unless they are names of files beside it."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if names and all(re.fullmatch(r"\w[\w.-]*\.(safetensors|bin)", name) for name in names):
            return names
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise CheckpointError(f"{index.name} does not say which files hold the weights.")


def _download(source: Source, report: Report) -> Path:
    commit, names = _listing(source)
    repository = Commit(source, commit)
    lacking = [name for name in _REQUIRED if name not in names]
    weights = next((name for name in _WEIGHTS if name in names), None)
    if lacking or weights is None:
        what = f"has no {lacking[0]}" if lacking else "has no weights (model.safetensors or pytorch_model.bin)"
        raise CheckpointError(f"{source.repository} {what}, so it is no checkpoint that can be loaded.")
    wanted = [*_REQUIRED, *(name for name in _USEFUL if name in names), weights]
    if weights.endswith(_INDEX):
        repository.bring(repository.describe(weights), lambda done: report(PHASE, 0, 0))
        wanted += _shards(repository.folder / weights)
    files = [repository.describe(name) for name in wanted]
    total = sum(file.size or 0 for file in files)
    _require_space(repository, files)
    before = 0
    for file in files:
        # bound now: the callback is called while this file is being brought, and never later
        def say(done: int, before: int = before) -> None:
            report(PHASE, before + done, total)

        repository.bring(file, say)
        before += file.size or 0
        report(PHASE, before, total)
    repository.remember_revision()
    return repository.folder


def _listing(source: Source) -> tuple[str, set[str]]:
    """The commit that the revision means today, and the names of the files in it."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=source.endpoint, token=source.token)
    timeout_s = min(source.stall_timeout_s, ANSWER_TIMEOUT_S)
    try:
        info = api.model_info(source.repository, revision=source.revision, timeout=timeout_s)
    except (KeyError, TypeError, AttributeError) as error:
        raise no_hub() from error
    if not _COMMIT.fullmatch(info.sha or ""):
        raise no_hub()
    return str(info.sha), {sibling.rfilename for sibling in info.siblings or ()}


def _require_space(repository: Commit, files: list[File]) -> None:
    lacking = sum(max(0, (file.size or 0) - repository.present_bytes(file)) for file in files)
    free = shutil.disk_usage(repository.blobs).free
    if lacking > free:
        raise LoadFailed(
            f"The disk of the checkpoint cache is too full: {lacking / 1e6:,.0f} MB are needed, "
            f"{free / 1e6:,.0f} MB are free. Make room, or move the cache."
        )
