"""Connections that never become requests: too many of them, and those whose bytes are not HTTP. Both are counted."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from vision_server.api.app import create_app
from vision_server.api.wire import Runner
from vision_server.settings import Settings

WAIT_S = 60.0
GET = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def listening(folder: Path, most_connections: int) -> AsyncIterator[int]:
    """The port of a server that has so many connections at most."""
    (folder / "config.json").write_text("{}")
    runner = Runner(create_app(Settings(model=str(folder))), most_connections, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield site.port
    finally:
        await runner.cleanup()


async def say(port: int, data: bytes) -> bytes:
    """All that is answered, until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), WAIT_S)
    finally:
        writer.close()


async def test_one_connection_too_many_is_told_so_and_a_place_comes_back(tmp_path: Path) -> None:
    async with listening(tmp_path, 3) as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        head, _, body = (await say(port, b"")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 5" in head
        told = json.loads(body)
        assert f"X-Request-Id: {told['request_id']}".encode() in head
        assert (told["code"], told["detail"]) == ("unavailable", told["error"])
        assert "connections" in told["error"]

        reader, writer = idle[0]  # who was there first is still served
        writer.write(GET % b"/health")
        assert (await asyncio.wait_for(reader.read(), WAIT_S)).startswith(b"HTTP/1.1 200 ")
        writer.close()
        end_s = time.monotonic() + WAIT_S
        while not (metrics := await say(port, GET % b"/metrics")).startswith(b"HTTP/1.1 200 "):
            assert time.monotonic() < end_s  # until the server has seen that connection end
        assert b'vision_request_failures_total{reason="unavailable",route="unknown"}' in metrics
        for _, writer in idle[1:]:
            writer.close()


async def test_what_is_not_http_is_counted(tmp_path: Path) -> None:
    async with listening(tmp_path, 8) as port:
        for junk in (b"\x16\x03\x01 hello\r\n\r\n", b"GET /health JUNK/9\r\n\r\n"):
            assert b" 400 " in (await say(port, junk)).splitlines()[0]
        metrics = (await say(port, GET % b"/metrics")).decode()
    assert 'vision_requests_total{code="400",route="unknown"} 2.0' in metrics
    assert 'vision_request_failures_total{reason="bad_request",route="unknown"} 2.0' in metrics


@pytest.mark.skipif(os.name != "posix", reason="limits on open files are POSIX")
@pytest.mark.parametrize(("hard", "most"), [(128, 64), (256, 192), (1024, 896), (32, 1)])
def test_some_open_files_are_kept_from_connections(hard: int, most: int) -> None:
    """As the system limits them, in a process of its own."""
    code = (
        "import resource; from vision_server import daemon;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (min(100, {hard}), {hard}));"
        "print(daemon._allow_many_connections(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout.split() == [str(most), str(hard)]
