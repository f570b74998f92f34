"""A picture, and how the tests of this folder ask about it. Not a test."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
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


def asking(images: list[str], text: str = "") -> list[dict[str, Any]]:
    """A chat of one message, as OpenAI's clients write it; `images` are base64."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in images
    ]
    return [{"role": "user", "content": [{"type": "text", "text": text}, *parts]}]


async def asked_times(client: Client, route: str, code: int) -> int:
    """How often the server has answered this route with this status."""
    text = await (await client.get("/metrics")).text()
    found = re.search(rf'vision_requests_total{{code="{code}",route="{route}"}} ([0-9]+)', text)
    return int(found[1]) if found else 0


async def until_asked(client: Client, route: str, code: int, times: int) -> None:
    """The test's own timeout ends a vain wait."""
    while await asked_times(client, route, code) < times:
        pass


@asynccontextmanager
async def busy(client: Client, status_becomes: StatusBecomes, gate: Path) -> AsyncIterator[None]:
    """While the one slot and the one place of the queue are taken, until the file `gate` is there."""
    held = [asyncio.ensure_future(ask(client, prompt="VQA", text_input=f"gate:{gate}"))]
    await status_becomes(client, in_flight=1)
    held.append(asyncio.ensure_future(ask(client, prompt="FAKE")))
    await status_becomes(client, in_flight=1, queue_depth=1)
    yield
    gate.touch()
    assert [status for status, _ in await asyncio.gather(*held)] == [200, 200]


def tensors(image: str, prompt: str = "<FAKE>", text: str | None = None) -> dict[str, Any]:
    """An inference about one picture in base64, as clients of Triton write it in JSON."""
    said = {"INPUT_IMAGE": image, "TASK_PROMPT": prompt, **({} if text is None else {"TEXT_PROMPT": text})}
    inputs = [{"name": name, "datatype": "BYTES", "shape": [1, 1], "data": [value]} for name, value in said.items()]
    return {"inputs": inputs}
