"""Words of the command line -> pictures: files, folders, patterns, addresses, and lists of them from standard input."""

from __future__ import annotations

import codecs
import contextlib
import glob
import http.client
import locale
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .server import ClientError

SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .avif .heic .heif".split())
_MAX_BYTES = 64 << 20  # of a picture at an address
_TIMEOUT_S, _STILL_S = 120.0, 30.0  # for all of it; without a byte


class Unread(ClientError):
    """There is no such picture, or it cannot be read; the text names it."""


@dataclass(frozen=True)
class Picture:
    """`name` is how it was named or found; `path` is None for one at an address."""

    name: str
    path: Path | None

    def read(self) -> bytes:
        """Its file. Raises Unread."""
        data = download(self.name) if self.path is None else read_file(self.path)
        if not data:  # the server would take it for a request without a picture
            raise Unread(f"{self.name} is empty.")
        return data


@dataclass(frozen=True)
class Fault:
    """A word that names no picture, and why, in a whole sentence."""

    why: str


def pictures(words: Iterable[str], recursive: bool, stdin: BinaryIO) -> Iterator[Picture | Fault]:
    """What the words name, in their order: what a folder or a pattern holds is sorted.

    A folder gives the pictures in it, `recursive` those below it too; a pattern (`*`, `?`, `[]`, `**`) those that match
    and have a picture's suffix; `-` what standard input lists, a name or an address a line, or between zero bytes where
    there is one. A file that exists is itself, whatever its name looks like.
    """
    for word in words:
        if word == "-":
            for name in listed_names(stdin.read()):
                yield from _named(name, recursive, patterns=False)
        else:
            yield from _named(word, recursive, patterns=True)


def listed_names(listed: bytes) -> list[str]:
    """A list's names. What marks an encoding is not of a name; Windows PowerShell writes UTF-16 with it."""
    if listed.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        listed = listed.decode("utf-16", "replace").encode()
    listed = listed.removeprefix(codecs.BOM_UTF8)
    names = [_decoded(one).removesuffix("\r") for one in listed.split(b"\0" if b"\0" in listed else b"\n")]
    return [name for name in names if name.strip()]


def _decoded(name: bytes) -> str:
    try:
        return os.fsdecode(name)
    except UnicodeDecodeError:  # on Windows, where not every name can be spelt in bytes: its old programs' encoding
        return name.decode(locale.getpreferredencoding(False), "replace")


def from_home(word: str) -> Path:
    """With the home folder for `~`, where there is one of that name."""
    path = Path(word)
    with contextlib.suppress(RuntimeError):
        path = path.expanduser()
    return path


def _named(word: str, recursive: bool, patterns: bool) -> Iterator[Picture | Fault]:
    if word.lower().startswith(("http://", "https://")):
        yield Picture(word, None)
        return
    path = from_home(word)
    try:
        exists, is_folder = os.path.lexists(path), path.is_dir()
    except ValueError:  # a zero byte
        exists = is_folder = False
    if is_folder:
        yield from _in_folder(path, recursive)
    elif exists or not (patterns and glob.has_magic(word)):
        yield Picture(word, path)  # what is not there is told when it is read
    else:
        matching = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        found = [one for one in sorted(matching) if _is_picture(Path(one))]
        yield from (Picture(one, Path(one)) for one in found)
        if not found:
            yield Fault(f"no picture is called like {word}.")


def _in_folder(folder: Path, recursive: bool) -> Iterator[Picture | Fault]:
    faults: list[Fault] = []

    def unread(error: OSError) -> None:
        faults.append(Fault(f"{error.filename} cannot be read ({error.strerror})."))

    empty = True
    for place, below, names in os.walk(folder, onerror=unread):
        below[:] = sorted(below) if recursive else []
        for path in sorted(Path(place, name) for name in names):
            if _is_picture(path):
                empty = False
                yield Picture(str(path), path)
    yield from faults
    if empty and not faults:
        yield Fault(f"there is no picture in {folder}{'' if recursive else '; --recursive looks below it, too'}.")


def _is_picture(path: Path) -> bool:
    """By its name; ._ begins what macOS puts beside a file. A pipe, which might never end, is none; a dead link is one,
    which is told when it is read."""
    named_so = path.suffix.lower() in SUFFIXES and not path.name.startswith("._")
    return named_so and (path.is_file() or not path.exists())


def read_file(path: Path) -> bytes:
    """A picture's file. Raises Unread."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Unread(f"there is no file {path}.") from None
    except IsADirectoryError:
        raise Unread(f"{path} is a folder.") from None
    except (OSError, ValueError) as error:
        raise Unread(f"{path} cannot be read ({type(error).__name__}).") from None


def download(address: str) -> bytes:
    """What lies at an http or https address, through redirections to such; by the person's own rights and proxy.

    The vision-server's key does not go there. Raises Unread: not there, over 64 MiB, or too slow.
    """
    began_s = time.monotonic()
    chunks, size = [], 0
    try:
        request = urllib.request.Request(
            urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]"), headers={"User-Agent": "vision-server"}
        )
        with contextlib.closing(_opener().open(request, timeout=_STILL_S)) as response:
            while chunk := response.read1(1 << 16):
                chunks.append(chunk)
                size += len(chunk)
                if size > _MAX_BYTES:
                    raise Unread(f"{address} is larger than {_MAX_BYTES >> 20} MiB.")
                if time.monotonic() - began_s > _TIMEOUT_S:
                    raise Unread(f"{address} takes longer than {_TIMEOUT_S:.0f} s.")
            if response.length:
                raise Unread(f"{address} broke off.")
    except urllib.error.HTTPError as error:
        with error:
            raise Unread(f"{address} answers with status {error.code}.") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "reason", None)
        raise Unread(f"{address} cannot be fetched ({type(why or error).__name__}).") from None
    return b"".join(chunks)


def _opener() -> urllib.request.OpenerDirector:
    """No file:, no ftp:, which urllib would take as well."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
