"""Encoded picture -> format and size, read from its header, and the limits on them. No pixel is touched.

This runs in the daemon on whatever strangers send, so it is plain Python that checks every bound: a codec's opener
already reserves memory for what the header claims. Where a file can state several sizes, the largest counts. What it
says is not the final word: the worker checks again what its decoder makes of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from .errors import BadImage, ImageRefused, TooLarge

MAX_SIDE = 16_384
FORMATS = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC"
# A header that needs more steps than this to find a size is not a picture anybody saved.
_MAX_STEPS = 4096


@dataclass(frozen=True)
class Header:
    """What a file says of itself: `width` and `height` in pixels as stored, before any EXIF rotation."""

    format: str
    width: int
    height: int


def check(data: bytes, max_pixels: int) -> Header:
    """The header of a picture that is within the limits.

    Raises BadImage (not a format we decode, or a broken header), ImageRefused (a side of 0 or beyond MAX_SIDE) and
    TooLarge (more than `max_pixels`); nothing else, whatever the bytes.
    """
    header = read(data)
    width, height = header.width, header.height
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ImageRefused(f"The picture says it is {width} x {height} pixels; each side may have 1 to {MAX_SIDE:,}.")
    if width * height > max_pixels:
        raise TooLarge(
            f"The picture has {width} x {height} = {width * height:,} pixels; at most {max_pixels:,} are taken. "
            "Send a smaller one: the model looks at less than a million."
        )
    return header


def read(data: bytes) -> Header:
    """Format and size, whatever the size. Raises BadImage."""
    name = sniff(data)
    if name is None:
        raise BadImage(f"This is not a picture in a format that is decoded here: send {FORMATS}.")
    try:
        width, height = _READERS[name](data)
    except (struct.error, IndexError, _Broken):
        raise BadImage(f"The {name} file is broken: its header does not tell the size. Save it again.") from None
    return Header(name, width, height)


def sniff(data: bytes) -> str | None:
    """The format that the first bytes claim, or None."""
    for name, magics in _MAGIC.items():
        if data.startswith(magics):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return _sniff_heif(data)
    return None


_MAGIC: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


class _Broken(Exception):
    """The header contradicts its format."""


def _read_png(data: bytes) -> tuple[int, int]:
    sizes: list[tuple[int, int]] = []
    at = 8
    for _ in range(_MAX_STEPS):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IHDR" and not sizes:
            sizes.append(struct.unpack_from(">II", data, at + 8))
        elif kind == b"IHDR" or not sizes:  # a decoder believes the last IHDR; a file has one, and it comes first
            raise _Broken
        elif kind == b"IDAT":
            return sizes[0]
        at += 12 + length
    raise _Broken


def _read_gif(data: bytes) -> tuple[int, int]:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    in_extension = False
    for _ in range(_MAX_STEPS):
        byte = data[at]
        if in_extension:  # a chain of blocks, each with its length before it; a length of 0 ends it
            in_extension = byte != 0
            at += byte + 1
        elif byte == 0x2C:  # the first frame may reach beyond the screen, which then grows
            left, top, w, h = struct.unpack_from("<HHHH", data, at + 1)
            return max(width, left + w), max(height, top + h)
        elif byte == 0x3B:
            raise _Broken
        else:
            in_extension = byte == 0x21
            at += 2 if in_extension else 1
    raise _Broken


def _read_bmp(data: bytes) -> tuple[int, int]:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    elif header_bytes in (40, 52, 56, 64, 108, 124):
        width, height = struct.unpack_from("<Ii", data, 18)
        height = abs(height)  # negative where rows run from the top
    else:
        raise _Broken
    return int(width), int(height)


def _read_jpeg(data: bytes) -> tuple[int, int]:
    width = height = -1
    at = 2
    for _ in range(_MAX_STEPS):
        at = data.find(b"\xff", at)
        if at < 0:
            break
        marker = data[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # stuffing, fill bytes, markers without a body
            at += 1 if marker == 0xFF else 2
            continue
        if marker in (0xDA, 0xD9):  # the scan begins, or the file ends
            break
        (length,) = struct.unpack_from(">H", data, at + 2)
        if length < 2:
            raise _Broken
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            h, w = struct.unpack_from(">HH", data, at + 5)
            width, height = max(width, w), max(height, h)
        at += 2 + length
    if width < 0:
        raise _Broken
    return width, height


def _read_webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            raise _Broken
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, 20)
        if signature != 0x2F:
            raise _Broken
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        canvas = data[24:30]
        if len(canvas) < 6:
            raise _Broken
        return int.from_bytes(canvas[:3], "little") + 1, int.from_bytes(canvas[3:], "little") + 1
    raise _Broken


# How an unsigned number of each TIFF type is read. The sizes of pictures come in no other type.
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}


def _read_tiff(data: bytes) -> tuple[int, int]:
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"+\0", b"\0+"):  # BigTIFF: 8-byte offsets and counts
        count, count_of_values, entry, value_at = "Q", "Q", 20, 12
        (at,) = struct.unpack_from(order + "Q", data, 8)
    else:
        count, count_of_values, entry, value_at = "H", "I", 12, 8
        (at,) = struct.unpack_from(order + "I", data, 4)
    if at > len(data):
        raise _Broken
    (entries,) = struct.unpack_from(order + count, data, at)
    at += struct.calcsize(count)
    sides = {0x100: -1, 0x101: -1}
    for index in range(min(entries, _MAX_STEPS)):
        tag, kind = struct.unpack_from(order + "HH", data, at + index * entry)
        if tag in sides:
            (values,) = struct.unpack_from(order + count_of_values, data, at + index * entry + 4)
            if kind not in _TIFF_NUMBERS or values != 1:  # several values would lie elsewhere, and a decoder reads them
                raise _Broken
            (value,) = struct.unpack_from(order + _TIFF_NUMBERS[kind], data, at + index * entry + value_at)
            sides[tag] = max(sides[tag], value)
    if min(sides.values()) < 0:
        raise _Broken
    return sides[0x100], sides[0x101]


def _sniff_heif(data: bytes) -> str | None:
    """The major brand decides; a generic one (mif1) leaves it to the compatible brands."""
    brands_end = min(int.from_bytes(data[:4], "big"), len(data), 512)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, brands_end - 3, 4))]
    if brands[0] in _AVIF_BRANDS or (brands[0] in _HEIC_BRANDS[-2:] and set(brands) & set(_AVIF_BRANDS)):
        return "AVIF"
    return "HEIC" if brands[0] in _HEIC_BRANDS else None


def _read_heif(data: bytes) -> tuple[int, int]:
    """The largest `ispe` property (meta / iprp / ipco): a thumbnail or a tile has a smaller one than the picture."""
    start, end = _only(_boxes(data, 0, len(data), b"meta"))
    iprp = _only(_boxes(data, start + 4, end, b"iprp"))
    ipco = _only(_boxes(data, *iprp, b"ipco"))
    sizes = [struct.unpack_from(">II", data, start + 4) for start, _ in _boxes(data, *ipco, b"ispe")]
    if not sizes:
        raise _Broken
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return width, height


def _only(boxes: list[tuple[int, int]]) -> tuple[int, int]:
    if len(boxes) != 1:
        raise _Broken
    return boxes[0]


def _boxes(data: bytes, start: int, end: int, wanted: bytes) -> list[tuple[int, int]]:
    """Where the bodies of the boxes of one kind begin and end, between `start` and `end`."""
    found = []
    for _ in range(_MAX_STEPS):
        if start + 8 > end:
            break
        size, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        elif size == 0:  # the last box runs to the end
            size = end - start
        if size < body - start or start + size > end:
            raise _Broken
        if kind == wanted:
            found.append((body, start + size))
        start += size
    return found


_READERS: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "JPEG": _read_jpeg,
    "PNG": _read_png,
    "GIF": _read_gif,
    "BMP": _read_bmp,
    "WebP": _read_webp,
    "TIFF": _read_tiff,
    "AVIF": _read_heif,
    "HEIC": _read_heif,
}
