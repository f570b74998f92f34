"""One table for all four dialects: the same pictures, the same answers, the right status for what goes wrong."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.dialects import DIALECTS, Dialect
from vision_server.api.keys import QUEUE

from .asking import PNG, StatusBecomes, busy, png, until_asked
from .conftest import Client, Serve

ALIASES: dict[str, Any] = {"model_aliases": (("gpt-4o", "toy"),)}
BOXES = {"bboxes": [[0.032, 0.024, 31.968, 23.976]], "labels": ["a car"]}
GIF = b"GIF89a\1\0\1\0\0\0\0\x2c\0\0\0\0\1\0\1\0\0"
every_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


async def ask(
    client: Client, dialect: Dialect, picture: bytes = PNG, prompt: str = "<FAKE>", text: str = "", **how: Any
) -> tuple[int, Any, Any]:
    """Status, JSON and headers."""
    body = io.BytesIO(json.dumps(dialect.body(picture, prompt, text)).encode())
    response = await client.post(dialect.path, data=body, **how)
    return response.status, await response.json(), response.headers


async def refused(client: Client, dialect: Dialect, status: int, *words: str, **how: Any) -> Any:
    """That it is, in the dialect's own form; the headers."""
    found, body, headers = await ask(client, dialect, **how)
    assert found == status, body
    said = dialect.blames(body)
    assert said
    assert all(word in said for word in words), said
    return headers


@every_dialect
async def test_good(dialect: Dialect, serve: Serve) -> None:
    client = await serve(**ALIASES)
    for picture in (PNG, png((32, 32)), GIF):
        for prompt, text, answer in (
            ("<FAKE>", "", f"<FAKE>||{len(picture)}"),
            ("fake", "", f"<FAKE>||{len(picture)}"),
            ("<VQA>", "what colour?", f"<VQA>|what colour?|{len(picture)}"),
            ("<CAPTION_TO_PHRASE_GROUNDING>", "located", BOXES),
        ):
            status, body, headers = await ask(client, dialect, picture, prompt, text)
            assert (status, dialect.says(body)) == (200, answer)
            assert headers["X-Request-Id"]
            assert "generate" in headers["Server-Timing"]


@every_dialect
async def test_unknown_prompt(dialect: Dialect, serve: Serve) -> None:
    client = await serve(**ALIASES, default_prompt="<FAKE>")
    await refused(client, dialect, 400, "<CAPTION>", "<FAKE>", prompt="<NONSENSE>")
    if dialect.chats:
        status, body, _ = await ask(client, dialect, prompt="What a nice day")
        assert (status, dialect.says(body)) == (200, f"<FAKE>||{len(PNG)}")
    else:
        await refused(client, dialect, 400, "FAKE", prompt="What a nice day")


@every_dialect
async def test_broken_image(dialect: Dialect, serve: Serve) -> None:
    client = await serve(**ALIASES)
    for picture in (b"GIF", b"\0" * 64, PNG[:20]):
        await refused(client, dialect, 415, picture=picture)
    assert (await (await client.get("/status")).json())["loads"] == 0
    await refused(client, dialect, 415, "A bad picture", prompt="<VQA>", text="bad")  # as only the worker can tell


@every_dialect
async def test_too_large(dialect: Dialect, serve: Serve) -> None:
    client = await serve(**ALIASES, max_body_mb=1, max_pixels_m=1)
    await refused(client, dialect, 413, "1 MiB", picture=PNG + b"\0" * (1 << 20))
    await refused(client, dialect, 413, "pixels", picture=png((1100, 1000)))


@every_dialect
async def test_queue_full(dialect: Dialect, serve: Serve, status_becomes: StatusBecomes, tmp_path: Path) -> None:
    client = await serve("--slots", "1", **ALIASES, max_queue=1)
    async with busy(client, status_becomes, tmp_path / "gate"):
        headers = await refused(client, dialect, 429)
        assert 1 <= int(headers["Retry-After"]) <= 120


@every_dialect
async def test_draining(dialect: Dialect, serve: Serve) -> None:
    client = await serve(**ALIASES)
    await client.app[QUEUE].drain()
    headers = await refused(client, dialect, 503)
    assert int(headers["Retry-After"]) >= 1


@every_dialect
async def test_wrong_key(dialect: Dialect, serve: Serve) -> None:
    client = await serve(**ALIASES, api_key="right")
    for header in ({}, {"Authorization": "Bearer wrong"}, {"X-API-Key": "wrong"}):
        await refused(client, dialect, 401, headers=header)
    for header in ({"Authorization": "Bearer right"}, {"X-API-Key": "right"}):
        assert (await ask(client, dialect, headers=header))[0] == 200


@every_dialect
async def test_client_gone(dialect: Dialect, serve: Serve, status_becomes: StatusBecomes, tmp_path: Path) -> None:
    """Its slot is another one's, and nobody else notices."""
    client, gate = await serve("--slots", "1", **ALIASES), tmp_path / "gate"
    async with aiohttp.ClientSession() as leaving:
        body = dialect.body(PNG, "<VQA>", f"gate:{gate}")
        held = asyncio.ensure_future(leaving.post(client.make_url(dialect.path), json=body))
        await status_becomes(client, in_flight=1)
        behind = asyncio.ensure_future(ask(client, dialect))
        await status_becomes(client, in_flight=1, queue_depth=1)
        held.cancel()
        await until_asked(client, dialect.route, 499, 1)
    status, body, _ = await behind
    assert (status, dialect.says(body)) == (200, f"<FAKE>||{len(PNG)}")
    assert not gate.exists()
    await status_becomes(client, in_flight=0, queue_depth=0, queue_bytes=0, arriving=0)
