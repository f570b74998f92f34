"""Files written whole or not at all, and who may write which text beside a picture."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

from .names import refused_by_windows, safe
from .server import ClientError
from .sources import SUFFIXES
from .telling import bare

_numbers = itertools.count()


def write_whole(path: Path, data: bytes, like: Path | None = None) -> None:
    """Replace or make a file in one step: nobody ever sees a part of it, and after a failure all is as it was.

    `like` is a file whose permissions it gets; the new one is then on the disk before it takes the place. Raises
    OSError, which names `path`.
    """
    part = path.with_name(f".vision-{os.getpid()}-{next(_numbers)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            if like is not None:
                file.flush()
                os.fsync(file.fileno())
        if like is not None:
            part.chmod(like.stat().st_mode & 0o7777)
        part.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


class Sidecars:
    """The text beside a picture: `cat.txt` beside `cat.jpg`; for several prompts `cat.caption.txt`, `cat.od.txt`.

    The first picture that asks for a place claims it.
    """

    def __init__(self, extension: str, several: bool, overwrite: bool, *, windows: bool = os.name == "nt") -> None:
        """`windows`: its rules for names hold. Raises ClientError for an extension that is none."""
        self._extension = extension.removeprefix(".")
        bad = not self._extension.isprintable() or set(self._extension) & set("/\\")
        if not self._extension or bad or self._extension.endswith((".", " ")):
            raise ClientError(f"{extension!r} is no extension: give one like txt.")
        if Path(f"x.{self._extension}").suffix.lower() in SUFFIXES:
            raise ClientError(f"{extension!r} is what pictures are called: name the extension of the texts, like txt.")
        self._several = several
        self._overwrite = overwrite
        self._windows = windows
        self._claims: dict[str, tuple[Path, str]] = {}
        self._folding: dict[Path, bool] = {}

    def place(self, picture: Path, prompt: str) -> Path:
        middle = f".{safe(bare(prompt).lower() or 'default')}" if self._several else ""
        return picture.with_name(f"{picture.stem}{middle}.{self._extension}")

    def claim(self, picture: Path, prompt: str) -> bool:
        """Whether it is to be written. Raises ClientError where the text of another picture or prompt lies there, or a
        folder, and for a name that Windows does not take."""
        place = self.place(picture, prompt)
        if self._windows and (why := refused_by_windows(place.name)):
            raise ClientError(f"Windows has no file {place.name}: {why}.")
        name, claim = os.path.normcase(place.absolute()), (picture, bare(prompt).lower())
        claimer = self._claims.setdefault(name.lower() if self._folds(picture) else name, claim)
        if claimer != claim:
            who = claimer[0].name if claimer[0] != picture else f"the prompt {claimer[1]}"
            raise ClientError(f"{who} already claims {place.name}.")
        if place.is_dir():
            raise ClientError(f"{place.name} is a folder.")
        return self._overwrite or not os.path.lexists(place)

    def write(self, picture: Path, prompt: str, text: str) -> None:
        """Raises OSError."""
        write_whole(self.place(picture, prompt), f"{text}\n".encode())

    def _folds(self, picture: Path) -> bool:
        """Whether the file system takes a.jpg and A.JPG for one file there."""
        if picture.parent not in self._folding:
            other = picture.with_name(f"{picture.stem}{picture.suffix.swapcase()}")
            with contextlib.suppress(OSError):
                self._folding[picture.parent] = other != picture and other.samefile(picture)
        return self._folding.get(picture.parent, False)
