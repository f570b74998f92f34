"""Paths and URLs -> a file system of fsspec's and a path in it, with words for what goes wrong."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from vision_server.errors import BadInput, BadSetting


def open_place(url: str, what: str) -> tuple[Any, str]:
    """The file system that `url` names, and the path in it. `what` is who says so. Raises BadSetting."""
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        scheme = url.partition("://")[0]
        raise BadSetting(f"{what}: {scheme}:// needs a library that is not installed: {first_line(error)}") from None
    except ValueError as error:
        raise BadSetting(f"{what}: {first_line(error)}.") from None
    except Exception as error:  # a library's own, of credentials for instance
        raise BadInput(f"{what} cannot be opened ({type(error).__name__}: {first_line(error)}).") from None
    return system, path


def canonical(url: str) -> str:
    """One spelling for the several that a place has: absolute, with its protocol. Raises as `open_place`."""
    system, path = open_place(url, "SOURCE")
    return spelled(system.unstrip_protocol(path))


def is_local(system: Any) -> bool:
    return isinstance(system, LocalFileSystem)


def first_line(error: BaseException) -> str:
    """What a library says, cut to what fits a line."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__


def write_whole(system: Any, path: str, data: bytes) -> None:
    """Make or replace a file; nobody sees a part of it under its name. Raises whatever the file system does."""
    folder, _, name = path.rpartition("/")
    part = f"{folder}/.{name}.{os.getpid()}.part"
    try:
        system.pipe_file(part, data)
        if is_local(system):
            Path(part).replace(path)
        else:
            system.mv(part, path)
    except BaseException:
        with contextlib.suppress(Exception):
            system.rm_file(part)
        raise


def spelled(name: str) -> str:
    """A file's name as text that every format can hold: bytes that are no UTF-8 are spelled out."""
    return name.encode("utf-8", "backslashreplace").decode()


def below(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(PurePosixPath(folder))
