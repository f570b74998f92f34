"""Large JPEGs are decoded at a fraction of their size: which, what of them is told, and how near the result comes."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from vision_server.errors import BadImage, TooLarge
from vision_server.worker.decode import decode

MAX_PIXELS = 50_000_000
TARGET = (192, 192)  # a quarter of the real side, and so are the pictures here: the tests stay quick
Size = tuple[int, int]


@functools.cache
def photograph(size: Size) -> Image.Image:
    """Coloured noise in octaves, the fine ones faint, as in what a lens draws."""
    rng = np.random.default_rng(3)
    values = np.full((size[1], size[0], 3), 127.0)
    for octave in range(9):
        columns = 3 << octave
        rows = max(1, columns * size[1] // size[0])
        coarse = rng.integers(-127, 128, (rows, columns, 3)) * 0.55**octave
        fine = [Image.fromarray(coarse[:, :, n].astype(np.float32)).resize(size) for n in range(3)]
        values += np.stack([np.asarray(one) for one in fine], axis=2)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


@functools.cache
def gradients(size: Size) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([x, y, 127 + 127 * np.sin((x + y) / 20)], axis=2).astype(np.uint8))


@functools.cache
def text(size: Size) -> Image.Image:
    """Sharp letters, coloured ones among them: the hardest that a JPEG is used for."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for line, y in enumerate(range(0, size[1], 30)):
        font = ImageFont.load_default(size=10 + line % 8 * 5)
        colour = ("black", "#c80000", "#0000c8", "#005a00")[line % 4]
        draw.text((3, y), "The quick brown fox jumps over 1234567890 lazy dogs. " * 3, fill=colour, font=font)
    return image


@functools.cache
def noise(size: Size) -> Image.Image:
    return Image.fromarray(np.random.default_rng(4).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def jpeg(image: Image.Image, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **how})
    return file.getvalue()


def difference(data: bytes, target: Size = TARGET) -> tuple[int, float]:
    """The largest and the mean one of the resized RGB against that of the whole picture."""
    drafted, whole = (decode(data, MAX_PIXELS, wanted).image for wanted in (target, None))
    assert drafted.size < whole.size
    two = [np.asarray(one.resize(target, Image.Resampling.BICUBIC), np.int16) for one in (drafted, whole)]
    apart = np.abs(two[0] - two[1])
    return int(apart.max()), float(apart.mean())


# As the module states it.
TOLERANCE: dict[Callable[[Size], Image.Image], tuple[int, float]] = {
    photograph: (3, 0.5),
    gradients: (3, 0.5),
    text: (48, 3.5),
    noise: (20, 3.0),
}


@pytest.mark.parametrize("size", [(1008, 1000), (1500, 1000), (1600, 1544)])
@pytest.mark.parametrize("subsampling", [0, 1, 2], ids=["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("make", TOLERANCE, ids=["photograph", "gradients", "text", "noise"])
def test_it_comes_near_the_whole_picture(make: Callable[[Size], Image.Image], subsampling: int, size: Size) -> None:
    most, mean = difference(jpeg(make(size), subsampling=subsampling))
    assert most <= TOLERANCE[make][0]
    assert mean <= TOLERANCE[make][1]


def test_of_letters_with_subsampled_colour_the_draft_is_nearer_to_what_was_encoded() -> None:
    page = text((1008, 1000))
    true = np.asarray(page.resize(TARGET, Image.Resampling.BICUBIC), np.int16)
    apart = []
    for wanted in (TARGET, None):
        seen = decode(jpeg(page, subsampling=2), MAX_PIXELS, wanted).image.resize(TARGET, Image.Resampling.BICUBIC)
        apart.append(np.abs(np.asarray(seen, np.int16) - true))
    assert apart[0].max() < apart[1].max() / 2
    assert apart[0].mean() < apart[1].mean()


@pytest.mark.parametrize("how", [{"progressive": True}, {"quality": 40}, {"quality": 100}, {"restart_marker_rows": 1}])
def test_however_it_is_encoded(how: dict[str, Any]) -> None:
    most, mean = difference(jpeg(photograph((1536, 1152)), **how))
    assert most <= 4
    assert mean <= 0.4


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk(mode: str) -> None:
    most, mean = difference(jpeg(photograph((1536, 1152)).convert(mode)))
    assert most <= 3
    assert mean <= 0.4


def test_a_photograph_for_the_real_models() -> None:
    data = jpeg(photograph((4000, 3000)), subsampling=2)
    assert decode(data, MAX_PIXELS, (768, 768)).image.size == (2000, 1500)
    most, mean = difference(data, (768, 768))
    assert most <= 3
    assert mean <= 0.3


@pytest.mark.parametrize(
    ("size", "target", "decoded"),
    [
        ((3040, 3040), (200, 200), (380, 380)),  # 1.9 times the target, an eighth of it
        ((3032, 3040), (200, 200), (758, 760)),  # a little less: a quarter
        ((3040, 1520), (200, 200), (760, 380)),  # the shorter side decides
        ((1520, 3040), (200, 100), (380, 760)),  # and the longer one of the target, whichever way up it is
        ((3044, 3040), (200, 200), (761, 760)),  # 3044 is no multiple of 8
        ((3042, 3040), (200, 200), (1521, 1520)),
        ((3041, 3040), (200, 200), (3041, 3040)),
        ((3040, 3040), (801, 801), (3040, 3040)),  # half of it would be too little
        ((992, 1000), (100, 100), (992, 1000)),  # not a million pixels
        ((1000, 1000), (100, 100), (250, 250)),
    ],
)
def test_the_smallest_that_is_enough(size: Size, target: Size, decoded: Size) -> None:
    result = decode(jpeg(Image.new("RGB", size, "teal")), MAX_PIXELS, target)
    assert (result.image.size, result.size) == (decoded, size)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_upright_and_its_size_is_the_whole_ones(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(photograph((1600, 800)), exif=exif)
    drafted, whole = (decode(data, MAX_PIXELS, wanted) for wanted in (TARGET, None))
    upright = (800, 1600) if orientation >= 5 else (1600, 800)
    assert drafted.size == whole.size == whole.image.size == upright
    assert drafted.image.size == (upright[0] // 2, upright[1] // 2)
    assert difference(data)[0] <= 3, "turned the same way"


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"])
def test_other_formats_are_decoded_whole(form: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (1600, 1600), "teal").save(file, form)
    result = decode(file.getvalue(), MAX_PIXELS, (100, 100))
    assert result.image.size == result.size == (1600, 1600)


def test_the_first_picture_of_several() -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (1600, 1600), colour) for colour in ("teal", "red")]
    frames[0].save(file, "MPO", save_all=True, append_images=frames[1:])
    result = decode(file.getvalue(), MAX_PIXELS, (100, 100))
    assert (result.image.size, result.size) == ((200, 200), (1600, 1600))
    near = np.asarray(result.image, np.int16) - np.array([0, 128, 128])
    assert np.abs(near).max() < 12


def test_limits_and_damage_are_told_as_ever() -> None:
    data = jpeg(photograph((1600, 1200)))
    with pytest.raises(TooLarge):
        decode(data, 1_900_000, (100, 100))
    with pytest.raises(BadImage, match="cannot be decoded"):
        decode(data[: len(data) // 2], MAX_PIXELS, (100, 100))
