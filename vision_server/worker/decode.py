"""Encoded picture -> upright RGB, in the worker. Whatever a file holds, the outcome is a picture or one of our errors.

Pillow does the decoding; the header check of `images` comes before it, since its openers already reserve memory for
what a header claims. Only the first frame of an animation counts. Values beyond 8 bits are scaled, not clipped, and
what is transparent lies on white, as a browser shows it.

A JPEG that is far larger than what the model looks at is decoded at half, a quarter or an eighth of its size, which
libjpeg does for about half the work; the resizing that follows gains more. Both sides stay at least 1.9 times what
the model wants, so that half of a photograph of 12 megapixels is enough for 768. Resized to that and compared with
decoding all of it, a channel of a photograph differs by at most 3 of 255 and 0.5 on average, of noise by 20 and 3, and
of a page full of sharp coloured letters by 48 and 3.5, at 4:4:4, 4:2:2 and 4:2:0 alike. For those letters it is whole
decoding that smears the colours of the usual 4:2:0: what was encoded lies nearer to the draft.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from .. import images
from ..errors import BadImage, OutOfMemory, TooLarge, VisionError

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")  # JPEG opens MPO too
_SCALES = (8, 4, 2)
_ENOUGH = 1.9
_WORTHWHILE_PIXELS = 1_000_000  # decoding and resizing fewer takes some ten milliseconds: nothing is to be gained
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Decoded:
    """An upright RGB picture, perhaps smaller than the file's; `size` is the file's, upright, in pixels."""

    image: Image.Image
    size: tuple[int, int]


def decode(data: bytes, max_pixels: int, target: tuple[int, int] | None = None) -> Decoded:
    """The first frame, mode RGB, turned as its EXIF says.

    `target` is the width and height in pixels that the picture will be resized to; without it, all of it is decoded.
    Raises BadImage, TooLarge, ImageRefused, and OutOfMemory when main memory does not suffice.
    """
    images.check(data, max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a picture that decodes with a warning is a picture
            return _decode(data, max_pixels, target)
    except VisionError:
        raise
    except MemoryError:
        raise OutOfMemory("There is not enough memory to decode this picture. Send a smaller one.") from None
    except Image.DecompressionBombError:
        raise TooLarge("The picture has too many pixels. Send a smaller one.") from None
    except Exception as error:
        raise BadImage("The picture cannot be decoded: the file is damaged or incomplete. Save it again.") from error


def _decode(data: bytes, max_pixels: int, target: tuple[int, int] | None) -> Decoded:
    with Image.open(io.BytesIO(data), formats=register_formats()) as image:
        if image.width * image.height > max_pixels:
            raise TooLarge(f"The picture has {image.width * image.height:,} pixels; at most {max_pixels:,} are taken.")
        whole_width = image.width
        if target is not None:
            image.draft(None, _draft_size(image.size, target))  # of our formats only JPEG does anything with it
        scale = whole_width // image.width
        image.load()
        upright = _turned(_to_rgb(image), _orientation(image))
        return Decoded(upright, (upright.width * scale, upright.height * scale))


def _draft_size(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The smallest size that is enough, whichever way up the picture is.

    Sides must be divisible by the scale: a last row or column that is only partly there would be stretched to a whole
    one, and everything be moved by that.
    """
    width, height = size
    least = _ENOUGH * max(target)
    for scale in _SCALES if width * height >= _WORTHWHILE_PIXELS else ():
        if width % scale == height % scale == 0 and min(size) >= scale * least:
            return width // scale, height // scale
    return size


@cache
def register_formats() -> tuple[str, ...]:
    """Those of ours that this Pillow can open: AVIF depends on its build, HEIF on a library beside it.

    The first picture asks for it, if nobody did before; it takes some ten milliseconds.
    """
    with contextlib.suppress(ImportError):
        pillow_heif: Any = importlib.import_module("pillow_heif")
        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    """Read after `load`: some decoders turn the picture themselves and then say so."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # broken EXIF data does not make a broken picture
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    how = _UPRIGHT.get(orientation)
    return image if how is None else image.transpose(how)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scaled(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode == "LAB":  # the one mode that Pillow converts only through colour profiles
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(*profiles, "LAB", "RGB")
        return ImageCms.applyTransform(image, transform) or image
    return image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """A grey picture of 16 or 32 bits or floats, brought to 8 bits.

    The full range is what the numbers suggest: 0 to 1 for floats, 16 bits for integers. Where values lie outside it,
    the range from the lowest to the highest is taken.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = 0.0, (1.0 if image.mode == "F" else 65535.0)
    if values.min() < low or values.max() > high:
        low, high = float(values.min()), float(values.max())
    return Image.fromarray(np.round((values - low) * (255.0 / (high - low))).astype(np.uint8))
