"""A picture, and how the tests of this folder ask about it. Not a test."""

from __future__ import annotations

import base64
import io
from collections.abc import Awaitable, Callable
from typing import Any

from PIL import Image

from .conftest import Client

StatusBecomes = Callable[..., Awaitable[dict[str, Any]]]


def png(size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()
BASE64 = base64.b64encode(PNG).decode()


async def ask(client: Client, **fields: Any) -> tuple[int, dict[str, Any]]:
    response = await client.post("/process_image", json={"image": BASE64, **fields})
    return response.status, await response.json()
