"""A caption in EXIF, and caption and keywords in IPTC, as bytes; what else they hold stays where and as it is.

EXIF is a TIFF file (TIFF 6.0): tag 0x010E of the first directory is ImageDescription. IPTC's datasets (IIM 4.2: 1:90
character set, 2:25 keywords, 2:120 caption) lie in Photoshop's resource 0x0404.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence

_DESCRIPTION, _ASCII = 0x010E, 2
_IPTC, _IPTC_DIGEST = 0x0404, 0x0425
_CHARSET, _RECORD_VERSION, _KEYWORD, _CAPTION = (1, 90), (2, 0), (2, 25), (2, 120)
_UTF8 = b"\x1b%G"
_MOST_KEYWORD_BYTES, _MOST_CAPTION_BYTES = 64, 2000

Datasets = list[tuple[tuple[int, int], bytes]]


def with_description(tiff: bytes | None, caption: str) -> bytes:
    """An EXIF block that says this. None for none yet.

    The first directory is written anew behind all that is there, so that no offset in it changes, maker notes and
    thumbnail included. Raises ValueError for a block that is damaged.
    """
    if tiff is None:
        tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<HI", 0, 0)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    try:
        if order is None:
            raise ValueError("no TIFF header")
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, at)
        end = at + 2 + 12 * count
        (following,) = struct.unpack_from(f"{order}I", tiff, end)
    except struct.error:
        raise ValueError("its first directory lies outside") from None
    entries = [tiff[start : start + 12] for start in range(at + 2, end, 12)]
    entries = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] != _DESCRIPTION]
    text = caption.encode().replace(b"\0", b"") + b"\0"
    grown = tiff + b"\0" * (len(tiff) % 2)
    place = text.ljust(4, b"\0") if len(text) <= 4 else struct.pack(f"{order}I", len(grown))
    if len(text) > 4:
        grown += text + b"\0" * (len(text) % 2)
    entries.append(struct.pack(f"{order}HHI", _DESCRIPTION, _ASCII, len(text)) + place)
    entries.sort(key=lambda entry: int(struct.unpack_from(f"{order}H", entry)[0]))
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + struct.pack(f"{order}I", following)
    return grown[:4] + struct.pack(f"{order}I", len(grown)) + grown[8:] + directory


def with_keywords(resources: bytes, caption: str | None, tags: Sequence[str]) -> bytes | None:
    """Photoshop's resources (b"" for none yet) with this in their IPTC part.

    None where that holds letters of a character set that nobody names: to add UTF-8 to them would garble them. Raises
    ValueError for resources that are damaged.
    """
    parts = list(_resources(resources))
    old = next((data for number, _, data in parts if number == _IPTC), b"")
    datasets = list(_datasets(old))
    if old and (_CHARSET, _UTF8) not in datasets and not old.isascii():
        return None
    datasets = [one for one in datasets if one[0] != _CHARSET]
    if caption is not None:
        datasets = [one for one in datasets if one[0] != _CAPTION]
        datasets.append((_CAPTION, _cut(caption, _MOST_CAPTION_BYTES)))
    known = {data for name, data in datasets if name == _KEYWORD}
    keywords = dict.fromkeys(_cut(tag, _MOST_KEYWORD_BYTES) for tag in tags)
    datasets += [(_KEYWORD, keyword) for keyword in keywords if keyword not in known]
    if not any(name == _RECORD_VERSION for name, _ in datasets):
        datasets.append((_RECORD_VERSION, b"\0\4"))
    datasets.sort(key=lambda one: (one[0][0], one[0] != _RECORD_VERSION))
    new = b"".join(_dataset(name, data) for name, data in [(_CHARSET, _UTF8), *datasets])
    if not any(number == _IPTC for number, _, _ in parts):
        parts.append((_IPTC, b"\0\0", b""))
    content = {_IPTC: new, _IPTC_DIGEST: hashlib.md5(new, usedforsecurity=False).digest()}
    return b"".join(_resource(number, name, content.get(number, data)) for number, name, data in parts)


def _resources(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, name as it is stored, content."""
    at = 0
    while at < len(data):
        if data[at : at + 4] != b"8BIM" or len(data) < at + 12:
            raise ValueError("not Photoshop's resources")
        (number,) = struct.unpack_from(">H", data, at + 4)
        named = 1 + data[at + 6]
        name = data[at + 6 : at + 6 + named + named % 2]
        start = at + 6 + len(name) + 4
        (size,) = struct.unpack(">I", data[start - 4 : start].ljust(4, b"\xff"))
        if start + size > len(data):
            raise ValueError("a resource reaches beyond the end")
        yield number, name, data[start : start + size]
        at = start + size + size % 2


def _resource(number: int, name: bytes, data: bytes) -> bytes:
    return b"8BIM" + struct.pack(">H", number) + name + struct.pack(">I", len(data)) + data + b"\0" * (len(data) % 2)


def _datasets(data: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    at = 0
    while data[at : at + 1] == b"\x1c":
        if len(data) < at + 5 or data[at + 3] & 0x80 or at + 5 + (size := data[at + 3] << 8 | data[at + 4]) > len(data):
            raise ValueError("an IPTC dataset reaches beyond the end, or is of a size that nobody writes")
        yield (data[at + 1], data[at + 2]), data[at + 5 : at + 5 + size]
        at += 5 + size
    if data[at:].strip(b"\0"):
        raise ValueError("not IPTC")


def _dataset(name: tuple[int, int], data: bytes) -> bytes:
    return struct.pack(">BBBH", 0x1C, *name, len(data)) + data


def _cut(text: str, most: int) -> bytes:
    """In UTF-8, no letter cut in two."""
    return text.encode()[:most].decode(errors="ignore").encode()
