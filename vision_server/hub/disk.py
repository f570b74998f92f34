"""What of a repository lies in the cache on this disk. Asks nobody, changes nothing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import CheckpointError
from .faults import explained
from .source import Source, require_possible

REQUIRED = ("config.json", "tokenizer.json")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
INDEX = ".index.json"


@dataclass(frozen=True)
class Presence:
    """`folder` holds the checkpoint when it is complete, and else the repository's part of the cache, if there is one.

    "partial" also means that what lies there belongs to another revision.
    """

    state: Literal["complete", "partial", "absent"]
    folder: Path
    size_bytes: int


def cache_folder(chosen: Path | None) -> Path:
    """The folder that holds `models--*`: the one that was chosen, or the library's."""
    from huggingface_hub import constants

    return (chosen or Path(constants.HF_HUB_CACHE)).expanduser().resolve()


def place_of(source: Source) -> Path:
    """The repository's own folder in the cache, whether it exists or not."""
    from huggingface_hub.file_download import repo_folder_name

    return cache_folder(source.cache) / repo_folder_name(repo_id=source.repository, repo_type="model")


def cached(source: Source) -> Path | None:
    """The directory of `source` if all that loading needs is on this disk, else None.

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


def presence(source: Source) -> Presence:
    """How much of `source` is on this disk, in bytes, and where. Raises as `cached` does."""
    folder = cached(source)
    try:
        if folder is not None:
            return Presence("complete", folder, sum(file.stat().st_size for file in folder.iterdir() if file.is_file()))
        place = place_of(source)
        files = [path for part in ("blobs", "snapshots") for path in (place / part).rglob("*")]
        size = sum(path.stat().st_size for path in files if path.is_file() and not path.is_symlink())
    except OSError as error:
        raise explained(error, source.repository, source.revision) from error
    return Presence("partial" if size else "absent", place, size)


def shards(index: Path) -> list[str]:
    """The files that `index` names. Raises CheckpointError unless they are names of files beside it."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if names and all(re.fullmatch(r"\w[\w.-]*\.(safetensors|bin)", name) for name in names):
            return names
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise CheckpointError(f"{index.name} does not say which files hold the weights.")


def _is_complete(folder: Path) -> bool:
    if not all((folder / name).is_file() for name in REQUIRED):
        return False
    for name in WEIGHTS:
        if (folder / name).is_file():
            needed = shards(folder / name) if name.endswith(INDEX) else []
            return all((folder / shard).is_file() for shard in needed)
    return False
