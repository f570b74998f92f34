"""What the tests of the clients share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.clients.folders import Server


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    known = Server()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/prompts", known.prompts)
    app.router.add_post("/process_image", known.caption)
    async with TestServer(app, host="127.0.0.1") as running:
        known.url = str(running.make_url("")).rstrip("/")
        yield known
        if known.gate is not None:
            known.gate.set()
