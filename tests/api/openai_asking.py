"""How the tests of OpenAI's calls ask: by the real `openai` package. Not a test."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from .asking import BASE64, PNG, asking
from .conftest import Client

ROUTE = "/v1/chat/completions"
FAKE = f"<FAKE>||{len(PNG)}"  # what the worker says to that prompt


def sync_sdk(client: Client, **how: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=str(client.make_url("/v1")), **{"api_key": "any", "timeout": 60, **how})


def sdk(client: Client, **how: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), **{"api_key": "any", "timeout": 60, **how})


def chat(text: str = "<FAKE>", images: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {"model": "toy", "messages": asking([BASE64] if images is None else images, text), **more}


async def said(client: Client, body: dict[str, Any]) -> str:
    async with sdk(client) as ai:
        answer = await ai.chat.completions.create(**body)
    assert answer.choices[0].message.content is not None
    return str(answer.choices[0].message.content)


async def refused(client: Client, body: dict[str, Any], **how: Any) -> openai.APIStatusError:
    async with sdk(client, **how) as ai:
        with pytest.raises(openai.APIStatusError) as caught:
            await ai.chat.completions.create(**body)
    return caught.value
