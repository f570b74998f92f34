"""What the readers of tar and parquet files share: a sample, the rules it is read by, words for what cannot be."""

from __future__ import annotations

from dataclasses import dataclass

from vision_server.errors import TooLarge

UNREADABLE, BAD_FILE, DUPLICATE = "unreadable", "bad_file", "duplicate_key"


@dataclass(frozen=True)
class Rules:
    """`field` and `key` as the flags of that name; at most `max_bytes` of a picture's file are taken."""

    prompts: int
    part_pictures: int
    max_bytes: int
    field: str | None = None
    key: str | None = None


@dataclass
class Sample:
    """One picture of a tar or parquet file. `error` and `message` in place of `data`, if it cannot be had."""

    key: str
    data: bytes | None = None
    error: str | None = None
    message: str | None = None


def too_large(size: int, most: int) -> tuple[str, str]:
    """Code and message."""
    return TooLarge.code, f"The picture's file has {size:,} bytes; at most {most:,} are taken (--max-body)."
