"""What the files of a checkpoint say of it: how large, how old, which, of how many parameters. Loads nothing.

Only those in a folder are looked into; of one on the hub only what the catalogue knows is told. Asks nobody.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .catalog import Checkpoint

_MAX_HEADER_BYTES = 16 << 20  # that of Florence-2-large has a tenth of a megabyte


@dataclass(frozen=True)
class Footprint:
    """What is not known is None, a size 0. `digest` is a SHA-256 in hex that changes when a file does.

    `modified_s` counts from 1970; `dtype` is what most parameters are kept in ("F16"); `positions` is how many tokens
    the text side takes.
    """

    digest: str
    size_bytes: int = 0
    modified_s: float | None = None
    parameters: int | None = None
    dtype: str | None = None
    positions: int | None = None


def footprint(checkpoint: Checkpoint) -> Footprint:
    """Reads names, sizes, times and headers. A file that cannot be read counts as one that is not there."""
    if checkpoint.directory is None:
        digest = _sha256([checkpoint.repository, checkpoint.revision])
        return Footprint(digest, checkpoint.size_bytes or 0)
    files = sorted(_files(checkpoint.directory))
    counts: Counter[str] = Counter()
    for name, size_bytes, modified_ns in files:
        if name.endswith(".safetensors"):
            counts.update(_parameters(checkpoint.directory / name, size_bytes, modified_ns))
    return Footprint(
        digest=_sha256([checkpoint.name, files]),
        size_bytes=sum(size_bytes for _, size_bytes, _ in files),
        modified_s=max((modified_ns / 1e9 for _, _, modified_ns in files), default=None),
        parameters=sum(counts.values()) or None,
        dtype=counts.most_common(1)[0][0] if counts else None,
        positions=positions(checkpoint),
    )


def _files(directory: Path) -> list[tuple[str, int, int]]:
    """Name, size in bytes and time in nanoseconds of each."""
    found = []
    try:
        for path in directory.iterdir():
            stat = path.stat()
            if path.is_file():
                found.append((path.name, stat.st_size, stat.st_mtime_ns))
    except OSError:
        return []
    return found


@lru_cache(maxsize=256)
def _parameters(path: Path, size_bytes: int, modified_ns: int) -> dict[str, int]:
    """How many numbers of each type a file of safetensors holds; size and time are there to notice a change.

    The file begins with the length of its header, eight bytes, little-endian, and the header: JSON, by tensor.
    """
    try:
        with path.open("rb") as file:
            [length] = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length <= min(size_bytes, _MAX_HEADER_BYTES) else {}
        counts: Counter[str] = Counter()
        for name, tensor in header.items():
            if name != "__metadata__":
                counts[str(tensor["dtype"])] += math.prod(tensor["shape"])
        return counts
    except (OSError, ValueError, struct.error, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def positions(checkpoint: Checkpoint) -> int | None:
    """How many tokens its text side takes; None where that is not known."""
    if checkpoint.directory is None:
        return None
    try:
        config = json.loads((checkpoint.directory / "config.json").read_bytes())
        found = config["text_config"]["max_position_embeddings"]
        return found if isinstance(found, int) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _sha256(what: Any) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()
