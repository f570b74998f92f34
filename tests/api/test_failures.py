"""Failures of the worker, of the client and of ourselves, as the client sees them."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import socket
from typing import Any

import aiohttp
import pytest
from aiohttp import FormData

from .asking import BASE64, PNG, StatusBecomes, ask
from .conftest import Serve


async def test_a_broken_picture_found_by_the_worker_is_415(serve: Serve) -> None:
    status, error = await ask(await serve(), prompt="FAKE", text_input="bad")
    assert (status, error["code"]) == (415, "bad_image")


async def test_a_request_that_kills_the_worker_twice_is_500(serve: Serve) -> None:
    status, error = await ask(await serve(), prompt="FAKE", text_input="crash")
    assert (status, error["code"]) == (500, "worker_crash")


async def test_a_full_queue_is_429_before_the_body_is_read(serve: Serve, status_becomes: StatusBecomes) -> None:
    client = await serve("--slots", "1", max_queue=1)
    await client.post("/load")
    held = [asyncio.create_task(ask(client, prompt="FAKE", text_input="hold")) for _ in range(2)]
    await status_becomes(client, queue_depth=1, in_flight=1)
    async with aiohttp.ClientSession() as session:
        response = await session.post(client.make_url("/process_image"), data=b"not even a picture")
        assert (response.status, (await response.json())["code"]) == (429, "queue_full")
        assert 1 <= int(response.headers["Retry-After"]) <= 120
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    await status_becomes(client, queue_depth=0, in_flight=0)


async def test_a_request_that_waits_too_long_is_504(serve: Serve) -> None:
    client = await serve(request_timeout_s=0.001)
    status, error = await ask(client)
    assert (status, error["code"]) == (504, "timeout")


async def test_a_client_that_leaves_takes_its_request_along(serve: Serve, status_becomes: StatusBecomes) -> None:
    client = await serve("--slots", "1")
    body = json.dumps({"image": BASE64, "prompt": "FAKE", "text_input": "hold"}).encode()
    request = b"POST /process_image HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    sockets = []
    for _ in range(3):
        connection = socket.create_connection(("127.0.0.1", client.port or 0))
        connection.sendall(request)
        sockets.append(connection)
    await status_becomes(client, in_flight=1, queue_depth=2)
    sockets[2].close()
    await status_becomes(client, in_flight=1, queue_depth=1)
    sockets[0].close()
    await status_becomes(client, in_flight=1, queue_depth=0)
    sockets[1].close()
    await status_becomes(client, in_flight=0, queue_depth=0)
    assert (await ask(client, prompt="FAKE"))[0] == 200


async def test_a_slow_body_is_408(serve: Serve) -> None:
    client = await serve(body_timeout_s=0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"POST /process_image HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()
    await writer.wait_closed()


async def test_bodies_over_the_limit_are_413(serve: Serve) -> None:
    client = await serve(max_body_mb=0.01)
    limit = int(0.01 * (1 << 20))
    padded = PNG + bytes(limit + 1 - len(PNG))
    assert (await client.post("/process_image", data=padded[:-1])).status == 200
    assert (await client.post("/process_image", data=padded)).status == 413
    assert (await ask(client, image=base64.b64encode(padded[:-1]).decode()))[0] == 200
    assert (await ask(client, image=base64.b64encode(padded).decode()))[1]["code"] == "too_large"
    form = FormData({"image": io.BytesIO(padded)})
    assert (await client.post("/process_image", data=form)).status == 413
    huge = bytes(3 << 20)
    for data, headers in (
        (io.BytesIO(huge), {}),
        (_chunks(huge), {}),
        (_chunks(b"--x\r\n\r\n" + huge), {"Content-Type": "multipart/form-data; boundary=x"}),
    ):
        async with aiohttp.ClientSession() as session:  # the server may close the connection under the upload
            try:
                response = await session.post(client.make_url("/process_image"), data=data, headers=headers)
            except aiohttp.ClientConnectionError:
                continue
            assert response.status == 413
            assert (await response.json())["code"] == "too_large"


async def _chunks(data: bytes) -> Any:
    for at in range(0, len(data), 1 << 16):
        yield data[at : at + (1 << 16)]


async def test_a_small_body_that_unpacks_to_a_large_one_is_413(serve: Serve) -> None:
    client = await serve(max_body_mb=0.01)
    bomb = gzip.compress(bytes(50 << 20))
    response = await client.post("/process_image", data=bomb, headers={"Content-Encoding": "gzip"})
    assert response.status == 413


async def test_unknown_paths_and_methods(serve: Serve) -> None:
    client = await serve()
    response = await client.get("/nowhere")
    assert (response.status, (await response.json())["code"]) == (404, "not_found")
    response = await client.get("/process_image")
    assert (response.status, (await response.json())["code"]) == (405, "method_not_allowed")
    assert response.headers["Allow"] == "POST"
    for method in ("DELETE", "PATCH", "OPTIONS", "TRACE"):
        response = await client.request(method, "/status")
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"


async def test_a_large_body_may_wait_for_leave_to_be_sent(serve: Serve) -> None:
    client = await serve()
    response = await client.post("/process_image?prompt=FAKE", data=PNG, expect100=True)
    assert response.status == 200


async def test_a_fault_of_ours_is_neutral_outside_and_whole_in_the_log(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret at 0x7f00 in /home/somebody")

    monkeypatch.setattr("vision_server.api.replies.answer", fail)
    status, error = await ask(await serve())
    assert (status, error["code"]) == (500, "internal")
    assert "secret" not in json.dumps(error)
    record = next(record for record in caplog.records if record.exc_info)
    assert "secret at 0x7f00" in str(record.exc_info)
    assert record.__dict__["request_id"] == error["request_id"]


async def test_pictures_and_prompts_are_not_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "vision_server")
    client = await serve()
    await client.post("/process_image?prompt=FAKE&text_input=private", data=PNG)
    assert "/process_image" in caplog.text
    assert "private" not in caplog.text
