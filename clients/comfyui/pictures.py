"""ComfyUI's pictures, and those that a server reads. An IMAGE is a float tensor [B, H, W, C] of 0 to 1, C 1, 3 or 4."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from .server import VisionServerError

_LARGE_BYTES = 16 << 20  # servers take files of 32 MiB unless they are told otherwise
_JPEG_QUALITY = 95


def split(images: torch.Tensor) -> list[torch.Tensor]:
    """The pictures of a batch, each [H, W, C]. Raises VisionServerError for what is no IMAGE."""
    if not isinstance(images, torch.Tensor) or images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        shape = list(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        raise VisionServerError(f"The input is no IMAGE of shape [batch, height, width, channels]: {shape}.")
    return list(images.unbind(0))


def to_pil(image: torch.Tensor) -> Image.Image:
    """[H, W, C] -> RGB, out of range cut off; of four channels the last, alpha, is left out."""
    bright = torch.nan_to_num(image.detach().to("cpu", torch.float32)).clamp(0, 1)
    colours = bright.expand(-1, -1, 3) if bright.shape[-1] == 1 else bright[..., :3]
    return Image.fromarray((colours * 255).round().to(torch.uint8).contiguous().numpy())


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB -> [H, W, 3], L -> [H, W], floats of 0 to 1."""
    return torch.from_numpy(np.array(image)).to(torch.float32) / 255


def encode(image: torch.Tensor) -> bytes:
    """[H, W, C] -> a file with the very pixels (PNG); one that would be large is a JPEG of quality 95 instead."""
    picture = to_pil(image)
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    if file.tell() > _LARGE_BYTES:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return file.getvalue()
