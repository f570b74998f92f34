"""A tar as WebDataset has it -> samples: members that follow each other with one name up to the first dot."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO

from vision_server.bulk.samples import Rules, Sample, too_large
from vision_server.dataset.pictures import SUFFIXES
from vision_server.errors import BadImage

_BUFFER_BYTES = 1 << 20


def samples(file: IO[bytes], rules: Rules) -> Iterator[Sample]:
    """Read once from front to back, so that it may come from afar and be compressed. Raises what tarfile does."""
    key: str | None = None
    members: dict[str, Sample] = {}
    with tarfile.open(fileobj=file, mode="r|*", bufsize=_BUFFER_BYTES) as tar:
        for member in tar:
            cut = split(member.name)
            if not member.isfile() or cut is None:
                continue
            if cut[0] != key or cut[1] in members:
                if key is not None:
                    yield _picture(key, members, rules)
                key, members = cut[0], {}
            sample = members[cut[1]] = Sample(key)
            if not _is_picture(cut[1], rules):
                continue
            if member.size > rules.max_bytes:
                sample.error, sample.message = too_large(member.size, rules.max_bytes)
                continue
            opened = tar.extractfile(member)
            sample.data = opened.read() if opened else b""
            if len(sample.data) < member.size:
                raise tarfile.ReadError("unexpected end of data")
    if key is not None:
        yield _picture(key, members, rules)


def split(name: str) -> tuple[str, str] | None:
    """`a/b.seg.png` is key `a/b` and extension `seg.png`; None for a name without one."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return (f"{folder}{slash}{stem}".removeprefix("./"), extension.lower()) if stem and dot else None


def _is_picture(extension: str, rules: Rules) -> bool:
    return extension == rules.field.lower() if rules.field else f".{extension}" in SUFFIXES


def _picture(key: str, members: dict[str, Sample], rules: Rules) -> Sample:
    found = [sample for extension, sample in members.items() if _is_picture(extension, rules)]
    if len(found) == 1:
        return found[0]
    several = "more than one picture: say which with --field"
    return Sample(key, error=BadImage.code, message=f"This sample holds {several if found else 'no picture'}.")
