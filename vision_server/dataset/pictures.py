"""Picture files as the daemon sees them: upright, RGB, within its limits."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from vision_server.errors import BadImage
from vision_server.worker.decode import decode

MAX_PIXELS = 200_000_000  # a person's own files, not a stranger's: only what is surely broken is refused
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .avif .heic .heif".split()
)  # of the formats that are decoded


def read(path: Path, target: tuple[int, int] | None = None) -> Image.Image:
    """The upright picture; `target` is what it will be resized to. Raises VisionError, naming the file."""
    return _decoded(path, target)[0]


def size(path: Path) -> tuple[int, int]:
    """Width and height of the upright picture in pixels; all of it is decoded. Raises VisionError, naming the file."""
    return _decoded(path, None)[1]


def _decoded(path: Path, target: tuple[int, int] | None) -> tuple[Image.Image, tuple[int, int]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadImage(f"There is no picture {path}.") from None
    except (OSError, ValueError) as error:
        raise BadImage(f"{path} cannot be read ({type(error).__name__}).") from None
    decoded = decode(data, MAX_PIXELS, target)
    return decoded.image, decoded.size
