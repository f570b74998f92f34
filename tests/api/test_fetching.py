"""A picture by its address, over HTTP: off unless a host is listed, fetched after admission, told in our words."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from pytest_aiohttp.plugin import AiohttpClient

from vision_server.api.app import create_app
from vision_server.api.keys import FETCHER
from vision_server.fetching.connection import Fetcher
from vision_server.settings import Settings

from .asking import PNG, StatusBecomes, ask
from .conftest import Client, Serve

Start = Callable[..., Awaitable[tuple[Client, str]]]


@pytest.fixture
def asked() -> list[str]:
    """The paths that the picture's server was asked for."""
    return []


@pytest.fixture
def start(aiohttp_client: AiohttpClient, aiohttp_raw_server: Any, folder: Path, asked: list[str]) -> Start:
    """A server that may fetch from img.example, which is a server of this test; and the picture's address there."""

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        if request.path == "/slow":
            await asyncio.Event().wait()
        found = {"/a.png": PNG, "/text": b"hello, world", "/large": PNG + bytes(1 << 20)}.get(request.path)
        return web.Response(status=404) if found is None else web.Response(body=found, content_type="text/html")

    async def start(*worker: str, **settings: Any) -> tuple[Client, str]:
        site: RawTestServer = await aiohttp_raw_server(answer)

        async def here(host: str, port: int) -> list[str]:
            return ["127.0.0.1"]

        app = create_app(
            Settings(model=str(folder), prompts=("<FAKE>",), max_body_mb=0.5, **settings),
            (sys.executable, "-m", "tests.fake_worker", *worker),
        )
        hosts = {f"img.example:{site.port}"}
        app[FETCHER] = Fetcher(hosts, 1.0, 1 << 19, lookup=here, is_allowed=lambda ip: ip == "127.0.0.1")
        return await aiohttp_client(app), f"http://img.example:{site.port}"

    return start


async def test_a_picture_by_its_address(start: Start) -> None:
    client, site = await start()
    answer = (200, {"result": f"<FAKE>||{len(PNG)}"})
    assert await ask(client, image=f"{site}/a.png", prompt="FAKE") == answer
    form = aiohttp.FormData({"image": f"{site}/a.png", "prompt": "FAKE"}, default_to_multipart=True)
    response = await client.post("/process_image", data=form)
    assert (response.status, await response.json()) == answer


async def test_pictures_of_a_chat_by_their_addresses(start: Start, asked: list[str]) -> None:
    client, site = await start()
    parts = [{"image_url": {"url": f"{site}/a.png"}}, {"image_url": f"{site}/a.png"}, "<FAKE>"]
    response = await client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": parts}]})
    assert response.status == 200
    said = (await response.json())["choices"][0]["message"]["content"]
    assert (said, asked) == (f"<FAKE>||{len(PNG)}\n\n<FAKE>||{len(PNG)}", ["/a.png"] * 2)
    parts[1] = {"image_url": f"{site}/nothing"}
    response = await client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": parts}]})
    assert (response.status, response.headers["x-should-retry"]) == (422, "false")
    assert (await response.json())["error"]["code"] == "fetch_failed"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/nothing", 422, "fetch_failed"),
        ("/slow", 422, "fetch_failed"),
        ("/text", 415, "bad_image"),
        ("/large", 413, "too_large"),
        ("/a b.png", 422, "image_refused"),
    ],
)
async def test_what_goes_wrong_is_said_and_nothing_loads(start: Start, path: str, status: int, code: str) -> None:
    client, site = await start()
    got, error = await ask(client, image=site + path)
    assert (got, error["code"]) == (status, code)
    for secret in ("img.example", "127.0.0.1", site.rpartition(":")[2], path):
        assert secret not in error["error"]
    assert (await (await client.get("/status")).json())["state"] == "unloaded"


async def test_off_by_default(serve: Serve, start: Start, asked: list[str]) -> None:
    _, site = await start()
    client = await serve()
    for image in (f"{site}/a.png", "file:///etc/passwd", "ftp://img.example/", f" {site}/a.png"):
        status, error = await ask(client, image=image)
        assert (status, error["code"]) == (422, "image_refused")
        assert "base64" in error["error"]
    assert asked == []


@pytest.mark.parametrize("image", ["/etc/passwd", "../secret.png", "C:\\a.png", "~/a.png", "\\\\server\\a.png"])
async def test_a_path_is_never_opened(start: Start, image: str) -> None:
    client, _ = await start()
    assert (await ask(client, image=image))[1]["code"] in ("bad_request", "image_refused")


async def test_an_address_in_the_query_or_as_the_body_is_not_fetched(start: Start, asked: list[str]) -> None:
    client, site = await start()
    response = await client.post("/process_image", params={"image": f"{site}/a.png"}, json={})
    assert response.status == 400
    assert (await client.post("/process_image", data=f"{site}/a.png".encode())).status == 415
    assert asked == []


async def test_a_full_queue_fetches_nothing(start: Start, asked: list[str], status_becomes: Any) -> None:
    client, site = await start("--slots", "1", max_queue=1)
    held = [asyncio.ensure_future(ask(client, prompt="CAPTION_TO_PHRASE_GROUNDING", text_input="hold"))]
    await status_becomes(client, in_flight=1)
    held.append(asyncio.ensure_future(ask(client, prompt="FAKE")))
    await status_becomes(client, queue_depth=1)
    assert (await ask(client, image=f"{site}/a.png"))[1]["code"] == "queue_full"
    assert asked == []
    for one in held:
        one.cancel()


async def test_a_stranger_has_nothing_fetched(start: Start, asked: list[str]) -> None:
    client, site = await start(api_key="k")
    assert (await ask(client, image=f"{site}/a.png"))[0] == 401
    assert asked == []


async def test_there_must_be_room_for_the_largest_picture_before_it_is_fetched(
    start: Start, asked: list[str], status_becomes: StatusBecomes
) -> None:
    client, site = await start(max_queue_mb=0.75)
    slow = asyncio.create_task(ask(client, image=f"{site}/slow"))
    await status_becomes(client, arriving=1, queue_bytes=1 << 19)
    status, error = await ask(client, image=f"{site}/a.png")
    assert (status, error["code"], asked) == (429, "queue_full", ["/slow"])
    assert (await slow)[0] == 422
    await status_becomes(client, arriving=0, queue_bytes=0)
    assert (await ask(client, image=f"{site}/a.png"))[0] == 200
