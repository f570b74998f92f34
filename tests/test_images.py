"""Sizes against what Pillow writes, the limits, and that no bytes can raise anything but our three errors."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from vision_server import images
from vision_server.errors import BadImage, ImageRefused, TooLarge

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B", "F")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "MPO")
TURNED = Image.Exif()
TURNED[0x0112] = 6  # the size in the header is the stored one, whatever the orientation
EXIF = TURNED.tobytes()
NAMES = {"WEBP": "WebP", "MPO": "JPEG"}
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "JPEG": ({}, {"progressive": True}, {"exif": EXIF}, {"comment": b"\xff\xc0" * 30}),
    "PNG": ({}, {"icc_profile": b"p" * 500}, {"exif": EXIF}),
    "WEBP": ({}, {"lossless": True}, {"exif": EXIF}, {"lossless": True, "exif": EXIF}),
    "GIF": ({}, {"comment": b"c" * 700}, {"transparency": 0}),
    "TIFF": ({}, {"big_tiff": True}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}),
    "AVIF": ({"speed": 10}, {"speed": 10, "exif": EXIF}),
}


def written(mode: str, size: tuple[int, int], form: str, **options: Any) -> bytes | None:
    """The file Pillow writes, or None where it cannot write this mode in this format."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            Image.new(mode, size).save(buffer, form, **options)
        except (OSError, ValueError, KeyError, RuntimeError):
            return None
    return buffer.getvalue()


def made(size: tuple[int, int] = (5, 3), form: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    data = written(mode, size, form, **options)
    assert data is not None
    return data


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (37, 113), (300, 7)])
def test_every_format_and_mode_that_pillow_writes(form: str, size: tuple[int, int]) -> None:
    counted = 0
    for mode in MODES:
        for options in OPTIONS.get(form, ({},)):
            data = written(mode, size, form, **options)
            if data is not None:
                expected = images.Header(NAMES.get(form, form), *size)
                assert images.read(data) == expected, (mode, options)
                counted += 1
    assert counted >= {"MPO": 3, "AVIF": 6, "BMP": 4}.get(form, 8)


def animation(form: str, **options: Any) -> bytes:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:], **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_several_frames_have_the_size_of_the_first(form: str) -> None:
    header = images.read(animation(form))
    assert (header.width, header.height) == (40, 30)


def test_interlaced_and_other_png_layouts() -> None:
    text = b"tEXtkey\0" + b"IHDR" * 40
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    data = made()
    assert images.read(data[:33] + chunk * 50 + data[33:]) == images.Header("PNG", 5, 3)


def test_a_second_size_in_a_png_is_refused() -> None:
    data = made()
    with pytest.raises(BadImage):
        images.read(data[:33] + data[8:33] + data[33:])


def test_a_frame_larger_than_its_gif_screen_counts() -> None:
    data = bytearray(made((5, 3), "GIF"))
    at = data.index(b"\x2c")
    data[at + 1 : at + 9] = struct.pack("<HHHH", 100, 200, 1000, 2000)
    assert images.read(bytes(data)) == images.Header("GIF", 1100, 2200)


def test_the_largest_of_several_jpeg_frames_counts() -> None:
    data = made((5, 3), "JPEG")
    at = data.index(b"\xff\xc0")
    (length,) = struct.unpack_from(">H", data, at + 2)
    second = bytearray(data[at : at + 2 + length])
    second[5:9] = struct.pack(">HH", 9000, 8000)
    assert images.read(data[:at] + bytes(second) + data[at:]) == images.Header("JPEG", 8000, 9000)


def test_jpeg_fill_bytes_and_top_down_bmp() -> None:
    data = made((5, 3), "JPEG")
    assert images.read(data[:2] + b"\xff" * 7 + data[2:]) == images.Header("JPEG", 5, 3)
    bmp = bytearray(made((5, 3), "BMP"))
    bmp[22:26] = struct.pack("<i", -3)
    assert images.read(bytes(bmp)) == images.Header("BMP", 5, 3)
    os2 = b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 5, 3, 1, 24)
    assert images.read(os2) == images.Header("BMP", 5, 3)


def tiff(*entries: tuple[int, int, int, int], order: str = "<") -> bytes:
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "IH", 8, len(entries))
    return head + b"".join(
        struct.pack(order + "HHIHH", tag, kind, count, value, 0)
        if kind == 3
        else struct.pack(order + "HHII", tag, kind, count, value)
        for tag, kind, count, value in entries
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_orders_and_types(order: str) -> None:
    data = tiff((0x100, 3, 1, 640), (0x101, 4, 1, 480), order=order)
    assert images.read(data) == images.Header("TIFF", 640, 480)


@pytest.mark.parametrize(
    "entries",
    [
        [(0x100, 3, 1, 640)],
        [(0x100, 5, 1, 640), (0x101, 4, 1, 480)],
        [(0x100, 4, 2, 10), (0x101, 4, 1, 480)],  # two values: the number here is where they lie
        [],
    ],
)
def test_tiff_without_a_plain_size_is_broken(entries: list[tuple[int, int, int, int]]) -> None:
    with pytest.raises(BadImage, match="TIFF file is broken"):
        images.read(tiff(*entries))


def test_heic_is_told_from_avif_by_its_brand() -> None:
    avif = made((64, 48), "AVIF", speed=10)
    heic = avif.replace(b"ftypavif", b"ftypheic", 1)
    assert images.read(heic) == images.Header("HEIC", 64, 48)
    generic = avif.replace(b"ftypavif", b"ftypmif1", 1)
    assert images.read(generic) == images.Header("AVIF", 64, 48)
    assert images.sniff(avif.replace(b"ftypavif", b"ftypisom", 1)) is None


def test_the_largest_ispe_counts_and_a_second_meta_is_refused() -> None:
    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I4s", len(body) + 8, kind) + body

    ispe = [box(b"ispe", struct.pack(">III", 0, *size)) for size in ((160, 120), (4000, 3000), (512, 512))]
    meta = box(b"meta", bytes(4) + box(b"iprp", box(b"ipco", b"".join(ispe))))
    start = box(b"ftyp", b"heic" + bytes(4) + b"mif1")
    assert images.read(start + box(b"free", bytes(9)) + meta) == images.Header("HEIC", 4000, 3000)
    with pytest.raises(BadImage):
        images.read(start + meta + meta)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"hello",
        b"<svg/>",
        b"%PDF-1.4",
        b"qoif\0\0\0\1",
        b"\0\0\0\x0cJXL \r\n\x87\n",
        b"8BPS",
        b"P6 1 1 255 ",
    ],
)
def test_other_formats_are_named_bad(data: bytes) -> None:
    with pytest.raises(BadImage, match="send JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC"):
        images.check(data, 50_000_000)


@pytest.mark.parametrize(
    ("size", "error"),
    [
        ((0, 10), ImageRefused),
        ((10, 0), ImageRefused),
        ((16_384, 1), None),
        ((16_385, 1), ImageRefused),
        ((1, 2**32 - 1), ImageRefused),
        ((16_384, 16_384), TooLarge),
        ((1000, 1000), None),
        ((1000, 1001), TooLarge),
    ],
)
def test_limits(size: tuple[int, int], error: type[Exception] | None) -> None:
    data = bytearray(made())
    data[16:24] = struct.pack(">II", *size)
    if error is None:
        assert images.check(bytes(data), 1_000_000).width == size[0]
    else:
        with pytest.raises(error):
            images.check(bytes(data), 1_000_000)


def test_a_tiny_webp_that_claims_a_huge_canvas_is_refused() -> None:
    bomb = b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\x3f\0" * 2 + b"VP8 " + bytes(4)
    assert len(bomb) == 38
    with pytest.raises(TooLarge):
        images.check(bomb, 50_000_000)


def every_file() -> Iterator[bytes]:
    for form in FORMATS:
        for options in OPTIONS.get(form, ({},)):
            data = written("RGB", (20, 10), form, **options)
            if data is not None:
                yield data
    yield animation("GIF")
    yield tiff((0x100, 3, 1, 640), (0x101, 4, 1, 480), order=">")


FILES = tuple(every_file())


def survives(data: bytes) -> None:
    try:
        header = images.check(data, 50_000_000)
    except (BadImage, ImageRefused, TooLarge):
        return
    assert 1 <= header.width <= 16_384
    assert 1 <= header.height <= 16_384


def test_every_truncation_is_survived() -> None:
    for data in FILES:
        for length in range(min(len(data), 600)):
            survives(data[:length])


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(FILES), st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=12))
def test_mutated_files_are_survived(data: bytes, changes: list[tuple[int, int]]) -> None:
    mutated = bytearray(data)
    for at, byte in changes:
        mutated[at % len(mutated)] = byte
    survives(bytes(mutated))


MAGICS = sorted({data[:16] for data in FILES})


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([b"", *MAGICS]), st.binary(max_size=300))
@example(b"II+\0\x08\0\0\0", b"\xff" * 40)  # an offset beyond any file
@example(b"II*\0", b"\xff" * 40)
def test_arbitrary_bytes_are_survived(magic: bytes, rest: bytes) -> None:
    survives(magic + rest)


@pytest.mark.parametrize(
    "data",
    [
        b"GIF89a" + bytes(7) + b"\x21\xff" + b"\x01\x01" * 10_000_000,
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\1\0\0\0\1" + bytes(9) + bytes(12) * 2_000_000,
        b"\xff\xd8" + b"\xff" * 20_000_000,
        b"\xff\xd8\xff" + b"\xd0\xff" * 10_000_000,
        b"\0\0\0\x14ftypavif\0\0\0\0avif" + b"\0\0\0\x08free" * 2_500_000,
        b"II*\0\x08\0\0\0\xff\xff" + b"\xfe\0\3\0\1\0\0\0\1\0\0\0" * 1_600_000,
    ],
    ids=["gif", "png", "jpeg fill", "jpeg markers", "boxes", "tiff"],
)
def test_endless_headers_end(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 MB of header that goes nowhere: given up after a few thousand steps, counted by the reads."""
    reads = 0

    class Counted(bytes):
        def __getitem__(self, index: Any) -> Any:
            nonlocal reads
            reads += 1
            return super().__getitem__(index)

    real = struct.unpack_from

    def unpack_from(*arguments: Any) -> tuple[Any, ...]:
        nonlocal reads
        reads += 1
        return real(*arguments)

    monkeypatch.setattr(struct, "unpack_from", unpack_from)
    with pytest.raises(BadImage):
        images.check(Counted(data), 50_000_000)
    assert reads < 20_000
