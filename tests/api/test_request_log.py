"""What is logged of a request, and that a client cannot forge lines with what it sends."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from vision_server import log

from .asking import BASE64, ask
from .conftest import Client, Serve

ANSWER_LINE = re.compile(
    r"\S+ (INFO|DEBUG) +vision_server\.api\.middleware: (answered|failed) [A-Z]+ /\S*( \w+=\S+)+ \[\S+\]"
)


def of(caplog: pytest.LogCaptureFixture, start: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage().startswith(start)]


async def until(condition: Callable[[], object]) -> None:
    for _ in range(30_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("in vain")


async def raw(client: Client, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(request)
    answer = await reader.read(65_536)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_one_line_for_an_answered_request(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "vision_server")
    client = await serve()
    fields = {"image": BASE64, "prompt": "FAKE", "text_input": "private"}
    await client.post("/process_image", json=fields, headers={"X-Request-Id": "mine"})
    records = [record for record in caplog.records if getattr(record, "request_id", None) == "mine"]
    assert [record.getMessage() for record in records] == ["answered POST /process_image"]
    told = json.loads(log.JsonFormatter().format(records[0]))
    assert told["request_id"] == "mine"
    assert (told["status"], told["prompt_tokens"], told["new_tokens"], told["generate_ms"]) == (200, 7, 3, 3.0)
    assert 0 < told["load_ms"] <= told["ms"]
    assert "private" not in caplog.text + json.dumps(told)


async def test_a_failed_request_says_why_by_its_code(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "vision_server")
    await ask(await serve(), prompt="NOPE")
    [record] = of(caplog, "failed POST /process_image")
    assert re.search(r"status=400 ms=[\d.]+ error=unknown_prompt \[\w+\]$", log.TextFormatter().format(record))


async def test_looking_is_no_news(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "vision_server")
    client = await serve()
    for path in ("/status", "/metrics", "/health", "/ready"):
        await client.get(path)
    assert caplog.records == []


async def test_a_client_that_left(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "vision_server")
    client = await serve()
    body = json.dumps({"image": BASE64, "prompt": "FAKE", "text_input": "hold"}).encode()
    head = b"POST /process_image HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: gone\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    with socket.create_connection(("127.0.0.1", client.port or 0)) as connection:
        connection.sendall(head + body)
        await until(lambda: of(caplog, "accepted"))
    await until(lambda: of(caplog, "cancelled POST /process_image"))
    for record in (*of(caplog, "accepted"), *of(caplog, "cancelled")):
        assert record.__dict__["request_id"] == "gone"


async def test_a_request_that_is_tried_again(serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "vision_server")
    client = await serve()
    fields = {"image": BASE64, "prompt": "FAKE", "text_input": f"once:{tmp_path / 'died'}:crash"}
    response = await client.post("/process_image", json=fields, headers={"X-Request-Id": "again"})
    assert response.status == 200
    about = [record.getMessage() for record in caplog.records if getattr(record, "request_id", None) == "again"]
    assert about == ["retried: its worker died (signal SIGABRT)", "answered POST /process_image"]


@pytest.mark.parametrize(
    "request_line",
    [
        b"POST /a%0d%0a2026-01-01T00:00:00 INFO forged:%20line HTTP/1.1",
        b"POST /%0a%0dforged%1b[31m%c2%9b31m%e2%80%a8 HTTP/1.1",
        b"POST /\x1b[31mforged\x07 HTTP/1.1",
        b"POST /\xc2\x85forged\xe2\x80\xae HTTP/1.1",
        b"POST /x?y=%0d%0aforged HTTP/1.1",
        b"FOR\x1bGED /x HTTP/1.1",
        b"POST /" + b"x" * 5000 + b" HTTP/1.1",
    ],
)
async def test_no_path_forges_a_line(serve: Serve, request_line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    client = await serve()
    answer = await raw(client, request_line + b"\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 40[04]", answer)
    for record in [record for record in caplog.records if record.name.startswith("vision_server.api")]:
        line = log.TextFormatter().format(record)
        assert ANSWER_LINE.fullmatch(line), line
        assert len(line) < 500
        assert "\n" not in log.JsonFormatter().format(record)


@pytest.mark.parametrize("given", [b"a\x1b[31mb", b"a\tb", b"a [b]", b"\xc2\x85", b"a\x00b", b"a\r\n forged: 1"])
async def test_no_id_forges_a_line(serve: Serve, given: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    client = await serve()
    answer = await raw(
        client,
        b"POST /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\nX-Request-Id: %b\r\n\r\n"
        % given,
    )
    assert re.match(rb"HTTP/1\.[01] 40[04]", answer)
    for record in [record for record in caplog.records if record.name.startswith("vision_server.api")]:
        assert ANSWER_LINE.fullmatch(log.TextFormatter().format(record))
        assert re.fullmatch(r"[0-9a-f]{32}", record.__dict__["request_id"])
