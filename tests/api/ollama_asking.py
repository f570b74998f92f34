"""How the tests of Ollama's calls ask: by the real `ollama` package. Not a test."""

from __future__ import annotations

from typing import Any

import ollama
import pytest

from .asking import BASE64, PNG
from .conftest import Client

GENERATE, CHAT = "/api/generate", "/api/chat"
FAKE = f"<FAKE>||{len(PNG)}"  # what the worker says to that prompt


def address(client: Client) -> str:
    return str(client.make_url("/"))


def sdk(client: Client, **how: Any) -> ollama.AsyncClient:
    return ollama.AsyncClient(host=address(client), **{"timeout": 60, **how})


def asking(prompt: str = "<FAKE>", **more: Any) -> dict[str, Any]:
    """The body of a /api/generate about one picture."""
    return {"model": "toy", "prompt": prompt, "images": [BASE64], **more}


def chatting(text: str = "<FAKE>", **more: Any) -> dict[str, Any]:
    """The body of a /api/chat about one picture."""
    return {"model": "toy", "messages": [{"role": "user", "content": text, "images": [BASE64]}], **more}


async def refused(client: Client, prompt: str = "<FAKE>", headers: dict[str, str] | None = None, **more: Any) -> Any:
    """The error that the package raises."""
    async with sdk(client, headers=headers) as ai:
        with pytest.raises(ollama.ResponseError) as caught:
            await ai.generate(**asking(prompt, **more))
    return caught.value
