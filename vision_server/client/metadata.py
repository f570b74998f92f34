"""Caption and tags written into the picture's own file: XMP, EXIF and IPTC, which other programs read.

exiftool does it where it is installed; JPEG, PNG and WebP need none. The pixels stay as they are to the bit, and so
does all other metadata; the file as it was is kept beside it as `cat.jpg_original`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import images, tasks
from ..errors import UnknownPrompt
from . import embedded, xmp
from .files import write_whole
from .server import ClientError
from .terminal import Result

_EXIFTOOL_TIMEOUT_S = 120.0
_CAPTION_TAGS = {"IPTC": "IPTC:Caption-Abstract", "EXIF": "EXIF:ImageDescription", "XMP": "XMP-dc:Description"}
_LIST_TAGS = {"IPTC": "IPTC:Keywords", "XMP": "XMP-dc:Subject"}
_GROUPS = {"JPEG": ("XMP", "EXIF", "IPTC"), "TIFF": ("XMP", "EXIF", "IPTC"), "GIF": ("XMP",)}


@dataclass(frozen=True)
class Description:
    """What answers say of a picture; `caption` is None where none of them is one."""

    caption: str | None
    tags: tuple[str, ...]


def describe(answers: Mapping[str, Result]) -> Description:
    """The first text is the caption; tags, and what was located, are the tags. Keys are prompts as they were asked."""
    caption: str | None = None
    tags: list[str] = []
    for prompt, result in answers.items():
        if not isinstance(result, str):
            tags += [" ".join(shape.label.split()) for shape in tasks.shapes(result)]
            continue
        names = _fields(prompt)
        parts = tasks.parse_fields(tasks.lookup(prompt).token, result) if names else {"caption": result}
        tags += parts.get("tags", [])
        if caption is None and parts.get("caption", "").strip():
            caption = parts["caption"].strip()
    return Description(caption, tuple(dict.fromkeys(tag for tag in tags if tag)))


def _fields(prompt: str) -> tuple[str, ...]:
    with contextlib.suppress(UnknownPrompt):  # "" is the server's default; there may be prompts that only it knows
        return tasks.lookup(prompt).fields
    return ()


def _gives_caption(prompt: str) -> bool:
    with contextlib.suppress(UnknownPrompt):
        task = tasks.lookup(prompt)
        return "caption" in task.fields if task.fields else task.answer == "text"
    return True


class Metadata:
    """Where descriptions are written. `exiftool` is the program, None for none."""

    def __init__(
        self, prompts: Iterable[str], overwrite: bool, keep_original: bool = True, exiftool: str | None = None
    ) -> None:
        self._gives_caption = any(map(_gives_caption, prompts))
        self._overwrite = overwrite
        self._keep_original = keep_original
        self._exiftool = exiftool

    def is_wanted(self, data: bytes) -> bool:
        """Whether a file lacks what is to be written, or is to get it anew."""
        packet = xmp.find_packet(data)
        if self._overwrite or packet is None:
            return True
        try:
            return not (xmp.caption_of(packet) if self._gives_caption else xmp.tags_of(packet))
        except xmp.BadPacket:
            return True  # `write` tells what is wrong with it

    def write(self, path: Path, data: bytes, answers: Mapping[str, Result]) -> None:
        """Replace the file, whose content is `data`, whole or not at all. Raises ClientError, OSError."""
        said = describe(answers)
        if said.caption is None and not said.tags:
            return
        path = path.resolve()  # a link stays a link
        new = self._by_exiftool(data, said) if self._exiftool else _by_ourselves(data, said)
        if path.read_bytes() != data:
            raise ClientError(f"{path.name} was changed while it was captioned; it is left as it is.")
        if self._keep_original:
            _keep(path, data)
        write_whole(path, new, like=path)

    def _by_exiftool(self, data: bytes, said: Description) -> bytes:
        """The file goes through its standard input and output, so that no name can mean something to it."""
        assert self._exiftool is not None
        kind = images.sniff(data) or ""
        with tempfile.TemporaryDirectory(prefix="vision-caption-") as folder:
            listed, caption = Path(folder) / "arguments", Path(folder) / "caption"
            caption.write_bytes((said.caption or "").encode())
            lines = _arguments(kind, data, said, caption)
            listed.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            try:
                ran = subprocess.run(
                    [self._exiftool, "-@", str(listed), "-"],
                    input=data, capture_output=True, timeout=_EXIFTOOL_TIMEOUT_S, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise ClientError("exiftool took too long.") from None
        if ran.returncode or not ran.stdout:
            why = ran.stderr.decode(errors="replace").strip().partition("\n")[0].removesuffix(" - -")
            raise ClientError(f"exiftool cannot write to it: {why}.")
        return ran.stdout


def find_exiftool() -> str | None:
    return shutil.which("exiftool")


def _arguments(kind: str, data: bytes, said: Description, caption: Path) -> list[str]:
    """Lines of exiftool's argument file. The caption, which may hold line ends, is read from a file of its own."""
    groups = _GROUPS.get(kind, ("XMP", "EXIF"))
    lines = ["-q", "-o", "-", "-charset", "UTF8", "-charset", "filename=UTF8"]  # Windows has another one for names
    if "IPTC" in groups and b"8BIM\x04\x04" not in data:
        lines.append("-IPTC:CodedCharacterSet=UTF8")
    if said.caption is not None:
        lines += [f"-{_CAPTION_TAGS[group]}<={caption}" for group in groups]
    for group in groups:
        if group in _LIST_TAGS:
            tags = [" ".join(tag.split()) for tag in said.tags]
            lines += [f"-{_LIST_TAGS[group]}{sign}{tag}" for tag in tags for sign in ("-=", "+=")]
    return lines


def _by_ourselves(data: bytes, said: Description) -> bytes:
    try:
        new = embedded.described(data, said.caption, said.tags)
    except ValueError as error:
        why = "its XMP cannot be read" if isinstance(error, xmp.BadPacket) else str(error)
        raise ClientError(f"nothing can be written into it: {why}; install exiftool, which may know more.") from None
    if new is None:
        raise ClientError("only JPEG, PNG and WebP can be written to here: install exiftool for other formats.")
    return new


def _keep(path: Path, data: bytes) -> None:
    """The first original stays the original. Raises OSError."""
    kept = path.with_name(f"{path.name}_original")
    if os.path.lexists(kept):
        return
    try:
        os.link(path, kept)
    except OSError:  # a file system without links
        write_whole(kept, data, like=path)
        with contextlib.suppress(OSError):
            shutil.copystat(path, kept)
