"""Arbitrary bodies under arbitrary declarations are read or refused with a 4xx; none is a fault of the server."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Serve

FORM = (
    b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nCAPTION\r\n'
    b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.gif"\r\nContent-Type: image/gif\r\n\r\n'
    b"GIF89a\1\0\1\0\0\0\0\x2c\0\0\0\0\1\0\1\0\0\r\n--x--\r\n"
)
JSON = b'{"image": "R0lGODlhAQABAAAAACwAAAAAAQABAAA=", "prompt": "CAPTION", "options": {"num_beams": 3}}'
TYPES = (
    "multipart/form-data; boundary=x",
    "multipart/form-data; boundary=x; charset=y",
    "application/json",
    "image/gif",
)
CODINGS = ("identity", "gzip", "deflate", "br", "nonsense")
CHANGES = st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3), st.integers(0, 9)), max_size=5)


def changed(body: bytes, changes: list[tuple[int, bytes, int]]) -> bytes:
    for at, new, cut in changes:
        at %= len(body) + 1
        body = body[:at] + new + body[at + cut :]
    return body


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.builds(changed, st.sampled_from([FORM, JSON]), CHANGES), st.binary(max_size=200)),
    st.sampled_from(TYPES),
    st.sampled_from(CODINGS),
)
async def test_any_body_is_read_or_refused(serve: Serve, body: bytes, declared: str, coding: str) -> None:
    client = await serve()
    headers = {"Content-Type": declared, "Content-Encoding": coding}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # aiohttp warns of odd Content-Disposition headers
        response = await client.post("/process_image", data=body, headers=headers, compress=None)
    assert response.status == 200 or 400 <= response.status < 500, await response.text()


async def until(condition: Callable[[], object]) -> None:
    for _ in range(30_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("in vain")


async def test_a_client_that_leaves_amid_its_body_is_no_fault_of_the_server(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    client = await serve()
    server = client.server.handler
    assert server is not None
    for length in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        head = b"POST /process_image HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(JSON)
        writer.write(head + JSON[: 1 + length])
        await until(lambda: server.requests_count > length)  # noqa: B023  called at once
        writer.close()
        await writer.wait_closed()
    await until(lambda: not server.connections)
    assert (await client.get("/health")).status == 200
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == []
