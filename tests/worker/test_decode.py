"""Every mode and container that Pillow reads becomes an upright RGB picture; everything else one of our errors."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision_server.errors import BadImage, ImageRefused, TooLarge, VisionError
from vision_server.worker.decode import decode

MAX_PIXELS = 1_000_000


def saved(image: Image.Image, form: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def whole(data: bytes) -> Image.Image:
    decoded = decode(data, MAX_PIXELS)
    assert decoded.image.size == decoded.size
    return decoded.image


def grey(data: bytes) -> list[int]:
    """The red channel of the first row."""
    image = whole(data)
    assert image.mode == "RGB"
    return [int(value) for value in np.asarray(image)[0, :, 0]]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_each_format(form: str) -> None:
    image = whole(saved(Image.new("RGB", (40, 30), (200, 30, 90)), form))
    assert (image.mode, image.size) == ("RGB", (40, 30))
    red, green, blue = (int(v) for v in np.asarray(image)[10, 10])
    assert abs(red - 200) < 12
    assert abs(green - 30) < 12
    assert abs(blue - 90) < 12


@pytest.mark.parametrize("form", ["ICO", "PPM", "PCX", "TGA", "PDF"])
def test_other_formats_are_refused(form: str) -> None:
    with pytest.raises(BadImage):
        decode(saved(Image.new("RGB", (40, 30)), form), MAX_PIXELS)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_png_modes(mode: str) -> None:
    assert whole(saved(Image.new(mode, (5, 4)))).mode == "RGB"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I", "F"])
def test_tiff_modes(mode: str) -> None:
    assert whole(saved(Image.new(mode, (5, 4)), "TIFF")).size == (5, 4)


def test_cmyk_is_converted() -> None:
    image = whole(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"))
    assert image.getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(form: str) -> None:
    row = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    assert grey(saved(Image.fromarray(row), form)) == [0, 1, 128, 255]


def test_floats_are_scaled() -> None:
    assert grey(saved(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "TIFF")) == [0, 128, 255]
    assert grey(saved(Image.fromarray(np.array([[-1000, 0, 1000]], np.float32)), "TIFF")) == [0, 128, 255]
    assert grey(saved(Image.fromarray(np.array([[np.nan, 1, 0]], np.float32)), "TIFF")) == [0, 255, 0]


def test_big_integers_are_scaled() -> None:
    assert grey(saved(Image.fromarray(np.array([[0, 500_000, 1_000_000]], np.int32)), "TIFF")) == [0, 128, 255]


def test_transparency_lies_on_white() -> None:
    clear = (0, 0, 0, 0)
    assert grey(saved(Image.new("RGBA", (2, 1), clear))) == [255, 255]
    assert grey(saved(Image.new("RGBA", (2, 1), (0, 0, 0, 128)))) == [127, 127]
    assert grey(saved(Image.new("LA", (2, 1), (0, 0)))) == [255, 255]
    palette = Image.new("P", (2, 1), 3)
    palette.putpalette([0, 0, 0] * 8)
    assert grey(saved(palette, transparency=3)) == [255, 255]
    assert grey(saved(palette, "GIF", transparency=3)) == [255, 255]
    assert grey(saved(Image.new("L", (2, 1), 9), transparency=9)) == [255, 255]
    assert grey(saved(Image.new("RGBA", (2, 1), clear), "WEBP", lossless=True)) == [255, 255]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "MPO", "PNG"])
def test_the_first_frame_counts(form: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    image = whole(saved(frames[0], form, save_all=True, append_images=frames[1:]))
    red, green, blue = (int(v) for v in np.asarray(image)[8, 8])
    assert red > 240
    assert green < 15
    assert blue < 15


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(form: str, orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), "black")
    upright.paste("white", (0, 0, 16, 8))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = whole(saved(stored, form, exif=exif))
    assert image.size == (32, 16)
    bright = [int(np.asarray(image)[y, x, 0]) > 128 for x, y in ((4, 4), (28, 4), (4, 12), (28, 12))]
    assert bright == [True, False, False, False]


def test_broken_exif_does_not_break_the_picture() -> None:
    data = saved(Image.new("RGB", (16, 16), "red"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert whole(data).size == (16, 16)


def test_limits() -> None:
    with pytest.raises(TooLarge):
        decode(saved(Image.new("1", (1001, 1000))), MAX_PIXELS)
    with pytest.raises(ImageRefused):
        decode(saved(Image.new("1", (16_385, 1))), MAX_PIXELS)


def test_a_bomb_is_refused_by_its_header() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 16_000, 16_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )
    with pytest.raises(TooLarge):
        decode(bomb, 50_000_000)
    with pytest.raises(VisionError):
        decode(bomb, 10**9)  # past our own limit Pillow's stands


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_file_cut_short_is_a_bad_image_and_its_text_is_ours(form: str) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    data = saved(noise, form)
    with pytest.raises(BadImage) as caught:
        decode(data[: len(data) * 2 // 3], MAX_PIXELS)
    assert "cannot be decoded" in str(caught.value) or "is broken" in str(caught.value)
    assert "0x" not in str(caught.value)


_SEEDS = [
    saved(Image.effect_noise((24, 18), 90).convert("RGB"), form)
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(_SEEDS), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8)
)
def test_mutated_files_decode_or_fail_in_our_words(seed: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(seed)
    for at, value in changes:
        data[at % len(data)] = value
    try:
        assert whole(bytes(data)).mode == "RGB"
    except (BadImage, TooLarge, ImageRefused):
        pass
