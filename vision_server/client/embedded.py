"""JPEG, PNG and WebP files with other metadata: only its own pieces are added or replaced, every byte of the pixels and
all else stays. Nothing is decoded or encoded again.

JPEG: APP1 and APP13 segments (ISO 10918-1). PNG: eXIf and iTXt chunks (third edition). WebP: EXIF, XMP and VP8X chunks
(RFC 9649).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

from ..images import read
from . import exif, xmp

_XMP_HEAD, _EXIF_HEAD, _PHOTOSHOP_HEAD = b"http://ns.adobe.com/xap/1.0/\0", b"Exif\0\0", b"Photoshop 3.0\0"
_APP0, _APP1, _APP13, _SOS = 0xE0, 0xE1, 0xED, 0xDA
_MOST_SEGMENT_BYTES = 0xFFFF - 2
_PNG_XMP = b"XML:com.adobe.xmp\0"
_WEBP_XMP, _WEBP_EXIF, _WEBP_ALPHA = 0x04, 0x08, 0x10
Pieces = list[tuple[bytes, bytes]]


def described(data: bytes, caption: str | None, tags: Sequence[str]) -> bytes | None:
    """The file with caption and tags; None for a format that is none of the three. Raises ValueError for a file whose
    structure or metadata is damaged, or has no room."""
    if data[:2] == b"\xff\xd8":
        return _jpeg(data, caption, tags)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(data, caption, tags)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data, caption, tags)
    return None


def _jpeg(data: bytes, caption: str | None, tags: Sequence[str]) -> bytes:
    segments, at = [], 2
    while True:
        while data[at : at + 2] == b"\xff\xff":
            at += 1
        if data[at : at + 1] != b"\xff" or len(data) < at + 4:
            raise ValueError("a JPEG segment is damaged")
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _SOS:
            break
        if size < 2 or at + 2 + size > len(data):
            raise ValueError("a JPEG segment reaches beyond the end")
        segments.append((marker, data[at + 4 : at + 2 + size]))
        at += 2 + size
    # New ones go where readers look for them, EXIF first; none of ours moves what others point at behind them.
    start = next((n for n, (marker, _) in enumerate(segments) if marker != _APP0), len(segments))
    old = _segment(segments, _APP1, _XMP_HEAD)
    new = [(_APP1, _XMP_HEAD, xmp.changed(old, caption, tags))]
    if caption is not None:
        tiff = exif.with_description(_segment(segments, _APP1, _EXIF_HEAD), caption)
        if len(_EXIF_HEAD + tiff) <= _MOST_SEGMENT_BYTES:  # else XMP alone says it
            new.insert(0, (_APP1, _EXIF_HEAD, tiff))
    resources = [body for marker, body in segments if marker == _APP13 and body.startswith(_PHOTOSHOP_HEAD)]
    if len(resources) < 2:  # what is spread over several is left to exiftool
        iptc = exif.with_keywords(b"".join(resources)[len(_PHOTOSHOP_HEAD) :], caption, tags)
        if iptc is not None and len(_PHOTOSHOP_HEAD + iptc) <= _MOST_SEGMENT_BYTES:
            new.append((_APP13, _PHOTOSHOP_HEAD, iptc))
    for marker, head, body in new:
        if len(head + body) > _MOST_SEGMENT_BYTES:
            raise ValueError("there is no room for so much XMP in a JPEG")
        places = [n for n, (m, b) in enumerate(segments) if m == marker and b.startswith(head)]
        if places:
            segments[places[0]] = (marker, head + body)
            start = max(start, places[0] + 1)
        else:
            segments.insert(start, (marker, head + body))
            start += 1
    pieces = [struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments]
    return b"".join([data[:2], *pieces, data[at:]])


def _segment(segments: Sequence[tuple[int, bytes]], marker: int, head: bytes) -> bytes | None:
    return next((body[len(head) :] for m, body in segments if m == marker and body.startswith(head)), None)


def _png(data: bytes, caption: str | None, tags: Sequence[str]) -> bytes:
    chunks: Pieces = []
    at = 8
    while at < len(data) and (not chunks or chunks[-1][0] != b"IEND"):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + size > len(data):
            raise ValueError("a PNG chunk reaches beyond the end")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks or chunks[0][0] != b"IHDR" or chunks[-1][0] != b"IEND":
        raise ValueError("the PNG breaks off")
    packet = next((_itxt(body) for name, body in chunks if name == b"iTXt" and body.startswith(_PNG_XMP)), None)
    tiff = next((body for name, body in chunks if name == b"eXIf"), None)
    new: Pieces = [(b"iTXt", _PNG_XMP + b"\0\0\0\0" + xmp.changed(packet, caption, tags))]
    if caption is not None:
        new.append((b"eXIf", exif.with_description(tiff, caption)))
    kept = [
        (name, body)
        for name, body in chunks
        if not (name == b"iTXt" and body.startswith(_PNG_XMP)) and not (name == b"eXIf" and caption is not None)
    ]
    pieces = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in [kept[0], *new, *kept[1:]]
    ]
    return b"".join([data[:8], *pieces, data[at:]])


def _itxt(body: bytes) -> bytes:
    """The text of an iTXt chunk."""
    rest = body[len(_PNG_XMP) :]
    compressed, fields = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
    if len(fields) != 3:
        raise ValueError("a PNG text is damaged")
    if not compressed:
        return fields[2]
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(fields[2], 1 << 24)
    except zlib.error:
        raise ValueError("a PNG text is damaged") from None
    if not unpacker.eof:
        raise ValueError("a PNG text breaks off, or is of a size that nobody writes")
    return text


def _webp(data: bytes, caption: str | None, tags: Sequence[str]) -> bytes:
    chunks = list(_riff(data[12 : 8 + int.from_bytes(data[4:8], "little")]))
    if not chunks or chunks[0][0] not in (b"VP8 ", b"VP8L", b"VP8X"):
        raise ValueError("the WebP has no picture")
    if chunks[0][0] != b"VP8X":
        header = read(data)
        alpha = chunks[0][0] == b"VP8L" and len(chunks[0][1]) > 4 and chunks[0][1][4] & 0x10
        sides = (header.width - 1).to_bytes(3, "little") + (header.height - 1).to_bytes(3, "little")
        chunks.insert(0, (b"VP8X", bytes([_WEBP_ALPHA if alpha else 0, 0, 0, 0]) + sides))
    packet = next((body for name, body in chunks if name == b"XMP "), None)
    flags = chunks[0][1][0] | _WEBP_XMP
    new: Pieces = [(b"XMP ", xmp.changed(packet, caption, tags))]
    if caption is not None:
        tiff = next((body for name, body in chunks if name == b"EXIF"), None)
        new.insert(0, (b"EXIF", exif.with_description(tiff and tiff.removeprefix(_EXIF_HEAD), caption)))
        flags |= _WEBP_EXIF
    chunks[0] = (b"VP8X", bytes([flags]) + chunks[0][1][1:])
    replaced = {name for name, _ in new}
    pieces = [
        name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
        for name, body in [*(one for one in chunks if one[0] not in replaced), *new]
    ]
    whole = b"WEBP" + b"".join(pieces)
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


def _riff(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if len(data) < at + 8 + size:
            raise ValueError("a WebP chunk reaches beyond the end")
        yield data[at : at + 4], data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
