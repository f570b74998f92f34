"""SOURCE -> the files in it and the pieces of work they make. Asks a file system for names and sizes, reads no picture.

A piece is what one task reads: pictures of a folder that share a file of answers, a tar, or a parquet file.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any, Literal, Protocol

from vision_server.bulk.places import below, first_line, open_place, spelled
from vision_server.dataset.pictures import SUFFIXES
from vision_server.errors import BadInput, BadSetting

Kind = Literal["picture", "tar", "parquet"]
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_PARQUETS = (".parquet", ".pq")
_IN_ONE_PROCESS = ("memory", "dir", "zip", "tar")


@dataclass(frozen=True)
class File:
    """`name` is how people know it, relative to SOURCE; `path` is the file system's; `size` is None if unknown."""

    kind: Kind
    name: str
    path: str
    size: int | None


@dataclass(frozen=True)
class Wanted:
    """One picture file and which of the prompts, by number, it is to be asked."""

    file: File
    prompts: tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """Work for one task. Of a tar or a parquet file, `done` says which prompts its pictures need no more, by name."""

    url: str
    part: str
    pictures: tuple[Wanted, ...] = ()
    file: File | None = None
    done: tuple[tuple[str, tuple[int, ...]], ...] = ()


class Known(Protocol):
    """What is read of the answers that are there (`results.Results`)."""

    def done(self, picture: str) -> frozenset[int]: ...

    def home(self, picture: str) -> str | None: ...

    def done_of(self, file: str) -> dict[str, frozenset[int]]: ...

    def is_complete(self, file: str) -> bool: ...


def list_files(url: str, dest: str) -> list[File]:
    """In the order of their names. What lies in the folder `dest` is none of them. Raises BadSetting, BadInput."""
    system, root = open_place(url, "SOURCE")
    protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    if protocols & set(_IN_ONE_PROCESS):
        raise BadSetting(
            f"SOURCE: {url.partition('://')[0]}:// exists in one process only, and engines have their own."
        )
    try:
        found, root = _found(system, root)
    except FileNotFoundError:
        raise BadInput(f"SOURCE: there is no {url}.") from None
    except Exception as error:
        raise BadInput(f"SOURCE cannot be read ({type(error).__name__}: {first_line(error)}).") from None
    dest_system, dest_path = open_place(dest, "DEST")
    inside = [dest_path] if type(dest_system) is type(system) and below(dest_path, root) and dest_path != root else []
    files = [
        File(kind, spelled(posixpath.relpath(path, root)), path, info.get("size"))
        for path, info in sorted(found.items())
        if (kind := kind_of(path)) and not any(below(path, folder) for folder in inside)
    ]
    if not files:
        raise BadInput(f"SOURCE: {url} holds no picture, no .tar and no .parquet.")
    return files


def _found(system: Any, root: str) -> tuple[dict[str, Any], str]:
    """Files by path, and what their names are relative to."""
    if any(mark in root for mark in "*?["):
        fixed = root[: min(root.find(mark) for mark in "*?[" if mark in root)]
        found = {path: info for path, info in system.glob(root, detail=True).items() if info.get("type") == "file"}
        return found, posixpath.dirname(fixed)
    if kind_of(root) and not system.isdir(root):  # which asks less of a web server than a listing
        return {root: system.info(root)}, posixpath.dirname(root)
    if not system.exists(root):
        raise FileNotFoundError(root)
    if not system.isdir(root):
        raise BadInput(f"{posixpath.basename(root)} is no folder, no picture, no .tar and no .parquet")
    return system.find(root, detail=True), root


def kind_of(path: str) -> Kind | None:
    name = posixpath.basename(path).lower()
    if name.startswith("."):
        return None
    if name.endswith(_TARS):
        return "tar"
    if name.endswith(_PARQUETS):
        return "parquet"
    return "picture" if posixpath.splitext(name)[1] in SUFFIXES else None


def pieces(url: str, files: Sequence[File], known: Known, prompts: int, part_pictures: int) -> Iterator[Piece]:
    """What is left to do of the files, for `prompts` prompts. Pictures that have a file of answers stay in it."""
    every = range(prompts)
    by_part: dict[str, list[Wanted]] = {}
    fresh: list[Wanted] = []
    for file in files:
        if file.kind != "picture":
            if not known.is_complete(file.name):
                done = known.done_of(file.name)
                yield Piece(url, part_of(file.name), (), file, tuple((k, tuple(sorted(v))) for k, v in done.items()))
            continue
        left = tuple(number for number in every if number not in known.done(file.name))
        if left:
            home = known.home(file.name)
            (fresh if home is None else by_part.setdefault(home, [])).append(Wanted(file, left))
    for part, wanted in by_part.items():
        yield Piece(url, part, tuple(wanted))
    remaining = iter(fresh)
    while some := tuple(islice(remaining, part_pictures)):
        yield Piece(url, part_of(*(one.file.name for one in some)), some)


def part_of(*names: str) -> str:
    """The name, less its suffix, of the file that answers about these go to; of a tar, the beginning of several."""
    return "part-" + blake2b("\0".join(names).encode(), digest_size=8).hexdigest()
