"""Broken picture files by mutation, the same ones every time for one seed. Not a test.

Each file is a small sound one of some format, to which one to three things were done: cut short, bits flipped, bytes
overwritten, a number in it made huge, a stretch removed, doubled or exchanged with another, its sides claimed to be
giant, its metadata replaced by garbage, or its head put on another format's body.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_NOISE = random.Random(7).randbytes(24 * 18 * 3)


def _saved(mode: str, form: str, frames: int = 1, **how: Any) -> bytes:
    file = io.BytesIO()
    picture = Image.frombytes("RGB", (24, 18), _NOISE).convert(mode)
    if frames > 1:
        how = {**how, "save_all": True, "append_images": [picture.transpose(Image.Transpose.ROTATE_180)] * (frames - 1)}
    picture.save(file, form, **how)
    return file.getvalue()


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    return exif.tobytes()


@cache
def sound(form: str) -> tuple[bytes, ...]:
    """Sound files of one format: modes, compressions, frames and metadata that take different ways in a decoder."""
    exif = _exif()
    made: dict[str, Callable[[], list[bytes]]] = {
        "JPEG": lambda: [
            _saved("RGB", form, exif=exif),
            _saved("RGB", form, progressive=True),
            _saved("L", form),
            _saved("CMYK", form),
            _saved("RGB", "MPO", frames=2),
        ],
        "PNG": lambda: [
            _saved("RGB", form, exif=exif),
            _saved("RGBA", form),
            _saved("P", form, transparency=3),
            _saved("I;16", form),
            _saved("1", form),
            _saved("RGB", form, frames=2),
        ],
        "WEBP": lambda: [
            _saved("RGB", form),
            _saved("RGBA", form, lossless=True),
            _saved("RGBA", form, exif=exif),
            _saved("RGB", form, frames=2),
        ],
        "GIF": lambda: [_saved("P", form), _saved("L", form, transparency=0), _saved("P", form, frames=3)],
        "TIFF": lambda: [
            _saved("RGB", form, exif=exif),
            _saved("L", form, compression="tiff_lzw"),
            _saved("RGB", form, compression="tiff_adobe_deflate"),
            _saved("RGB", form, compression="jpeg"),
            _saved("1", form, compression="group4"),
            _saved("F", form),
            _saved("RGB", form, frames=2, big_tiff=True),
        ],
        "BMP": lambda: [_saved("RGB", form), _saved("P", form), _saved("1", form), _saved("RGBA", form)],
        "AVIF": lambda: [_saved("RGB", form, speed=10, exif=exif), _saved("RGBA", form, speed=10)],
    }
    return tuple(made[form]())


def _cut_short(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    at, count = _place(data, rng), rng.choice((1, 2, 4, 16, 200))
    data[at : at + count] = rng.choice((bytes(count), b"\xff" * count, rng.randbytes(count)))


def _set_number(data: bytearray, rng: random.Random) -> None:
    """A length, a count or an offset that lies: some number of 2, 4 or 8 bytes becomes an extreme one."""
    form, at = rng.choice((">H", "<H", ">I", "<I", ">I", "<I", ">Q", "<Q")), _place(data, rng)
    size = struct.calcsize(form)
    value = rng.choice((*_EDGES, len(data), len(data) - at, rng.getrandbits(32)))
    data[at : at + size] = struct.pack(form, value & ((1 << 8 * size) - 1))


def _remove(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 2, 4, 12, 64, 400))]


def _double(data: bytearray, rng: random.Random) -> None:
    at, count = _place(data, rng), rng.choice((1, 4, 12, 64, 400))
    data[at:at] = bytes(data[at : at + count]) * rng.choice((1, 1, 3, 30))


def _exchange(data: bytearray, rng: random.Random) -> None:
    """Two stretches change places: chunks, segments or boxes where the cuts fall well."""
    a, b, c, d = sorted(_boundary(data, rng) for _ in range(4))
    data[:] = data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _claim_giant(data: bytearray, rng: random.Random) -> None:
    """Sides beyond reason where the formats keep theirs, and everywhere the true ones are written."""
    for form in (">I", "<I", ">H", "<H"):
        for side in (24, 18):
            true, at = struct.pack(form, side), 0
            while (at := data.find(true, at)) >= 0:
                if rng.random() < 0.7:
                    wide = 8 * len(true)
                    data[at : at + len(true)] = struct.pack(form, rng.choice((3000, 16_384, (1 << wide) - 1)))
                at += len(true)


def _garble_metadata(data: bytearray, rng: random.Random) -> None:
    """A block of metadata of garbage, in the way of each format, well-formed on the outside."""
    garbage = rng.choice((b"Exif\0\0", b"ICC_PROFILE\0\1\1", b"MPF\0", b"http://ns.adobe.com/xap/1.0/\0")) + rng.choice(
        (b"II*\0\x08\0\0\0" + b"\xff" * 60, b"MM\0*" + b"\xff" * 8, rng.randbytes(rng.randrange(200)), b"")
    )
    if data[:2] == b"\xff\xd8":
        data[2:2] = b"\xff" + bytes([rng.choice((0xE1, 0xE2, 0xED))]) + struct.pack(">H", len(garbage) + 2) + garbage
    elif data[:4] == b"\x89PNG":
        kind = rng.choice((b"eXIf", b"iCCP", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"tRNS", b"gAMA", b"PLTE"))
        data[33:33] = struct.pack(">I", len(garbage)) + kind + garbage + struct.pack(">I", zlib.crc32(kind + garbage))
    elif data[:4] == b"RIFF":
        data += rng.choice((b"EXIF", b"ICCP", b"XMP ", b"ANMF")) + struct.pack("<I", len(garbage)) + garbage
    else:
        _overwrite(data, rng)


def _graft(data: bytearray, rng: random.Random) -> None:
    other = rng.choice(sound(rng.choice(FORMATS)))
    head = rng.randrange(4, 64)
    data[:] = data[:head] + other[rng.randrange(len(other)) :]


def _place(data: bytearray, rng: random.Random) -> int:
    """Anywhere, more often near the beginning, where headers are."""
    return rng.randrange(min(len(data), 80) if rng.random() < 0.5 else len(data)) if data else 0


def _boundary(data: bytearray, rng: random.Random) -> int:
    """Where something begins if there is such a place near: a JPEG marker, or a name of four letters."""
    at = _place(data, rng)
    for step in range(at, min(at + 60, len(data) - 4)):
        if data[step] == 0xFF or bytes(data[step : step + 4]).isalpha():
            return step
    return at


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _cut_short,
    _flip_bits,
    _overwrite,
    _set_number,
    _remove,
    _double,
    _exchange,
    _claim_giant,
    _garble_metadata,
    _graft,
)


def corpus(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`count` files, each with a name that tells its format, its number and what was done to it."""
    for number in range(count):
        rng = random.Random(f"{seed}-{number}")
        form = FORMATS[number % len(FORMATS)]
        data = bytearray(rng.choice(sound(form)))
        done = [MUTATIONS[number // len(FORMATS) % len(MUTATIONS)], *rng.choices(MUTATIONS, k=rng.choice((0, 0, 1, 2)))]
        for mutation in done:
            if data:
                mutation(data, rng)
        yield f"{form}-{number}" + "".join(mutation.__name__ for mutation in done), bytes(data)
