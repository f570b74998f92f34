"""What to fetch, and which names can be one. Asks nobody."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CheckpointError

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*", re.ASCII)  # becomes a path in the cache


@dataclass(frozen=True)
class Source:
    """What to fetch. None leaves `token`, `cache` (the folder that holds `models--*`) and `endpoint` to the library.

    A transfer that brings no byte for `stall_timeout_s` is given up; each byte starts that time anew.
    """

    repository: str
    revision: str = "main"
    token: str | None = field(default=None, repr=False)
    cache: Path | None = None
    offline: bool = False
    endpoint: str | None = None
    stall_timeout_s: float = 60.0


def is_offline(source: Source) -> bool:
    """Whether the hub must not be asked: as `source` says, or HF_HUB_OFFLINE."""
    from huggingface_hub import is_offline_mode

    return source.offline or is_offline_mode()


def is_repository(name: str) -> bool:
    """Whether `name` has the form `owner/name`. Says nothing of what exists."""
    return _REPOSITORY.fullmatch(name) is not None


def is_revision(name: str) -> bool:
    """Whether `name` has the form of a branch, a tag or a commit."""
    return _REVISION.fullmatch(name) is not None


def require_possible(source: Source) -> None:
    """Raises CheckpointError for names that no hub has, and that must not become paths."""
    if not is_repository(source.repository):
        raise CheckpointError(f"{source.repository!r} is no repository: its name has the form owner/name.")
    if not is_revision(source.revision):
        raise CheckpointError(f"{source.revision!r} is no revision: give a branch, a tag or a commit.")
