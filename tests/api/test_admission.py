"""Who is let in by the headers alone, what that reserves and when it is given back: over real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from vision_server.api.admission import client_of
from vision_server.api.bodies import max_body_bytes
from vision_server.settings import Settings

from .asking import BASE64, PNG, StatusBecomes, ask
from .conftest import Client, Serve

HOLD = json.dumps({"image": BASE64, "prompt": "FAKE", "text_input": "hold"}).encode()
MONITORING = ("/status", "/health", "/ready", "/prompts", "/model", "/metrics")
MIB = 1 << 20


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def begin(client: Client, *headers: str, body: bytes = b"") -> Stream:
    """A request whose headers and the beginning of whose body are sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write("\r\n".join(("POST /process_image HTTP/1.1", "Host: localhost", *headers, "", "")).encode() + body)
    return reader, writer


@asynccontextmanager
async def connection(client: Client, *headers: str, body: bytes = b"") -> AsyncIterator[asyncio.StreamReader]:
    """The same; leaving breaks it off."""
    reader, writer = await begin(client, *headers, body=body)
    try:
        yield reader
    finally:
        writer.transport.abort()


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.title(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, json.loads(await reader.readexactly(int(headers["Content-Length"])))


class TestBytes:
    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            (["Content-Length: 1000"], 1000),
            (["Content-Length: 0"], 0),
            (["Transfer-Encoding: chunked"], max_body_bytes(Settings())),
            (["Content-Length: 1000", "Content-Encoding: gzip"], max_body_bytes(Settings())),
            (["Content-Length: 1000", "Content-Type: multipart/form-data; boundary=x"], 1000),
        ],
    )
    async def test_they_are_reserved_by_the_headers_and_given_back_when_the_body_breaks_off(
        self, serve: Serve, status_becomes: StatusBecomes, headers: list[str], expected: int
    ) -> None:
        client = await serve()
        async with connection(client, *headers):
            if expected:
                await status_becomes(client, arriving=1, queue_bytes=expected)
        await status_becomes(client, arriving=0, queue_bytes=0)

    async def test_over_them_is_429_before_a_byte_of_the_body_came(
        self, serve: Serve, status_becomes: StatusBecomes
    ) -> None:
        client = await serve(max_queue_mb=1)
        async with connection(client, "Content-Length: 1000000"):
            await status_becomes(client, queue_bytes=1_000_000)
            for headers in ("Content-Length: 48577", "Transfer-Encoding: chunked"):
                async with connection(client, headers) as reader:
                    status, answered, error = await answer_of(reader)
                    assert (status, error["code"]) == (429, "queue_full")
                    assert 1 <= int(answered["Retry-After"]) <= 120
            async with connection(client, "Content-Length: 48576"):
                await status_becomes(client, arriving=2, queue_bytes=MIB)
        await status_becomes(client, queue_bytes=0)
        assert (await ask(client))[0] == 200

    async def test_they_become_the_pictures_size_when_it_is_read(
        self, serve: Serve, status_becomes: StatusBecomes
    ) -> None:
        client = await serve("--slots", "1")
        body = json.dumps({"image": BASE64, "prompt": "FAKE", "text_input": "hold", "x": "y" * 100_000}).encode()
        for count in (1, 2):  # one that the worker holds, one that waits
            asyncio.get_running_loop().create_task(client.post("/process_image", data=body))
            await status_becomes(client, arriving=0, queue_bytes=count * len(PNG))

    async def test_one_that_is_alone_may_be_larger_than_all_there_is(self, serve: Serve) -> None:
        client = await serve(max_queue_mb=0.001)
        picture = PNG + bytes(5000)
        assert (await client.post("/process_image", data=picture)).status == 200
        async with connection(client, "Content-Length: 1"):
            assert (await client.post("/process_image", data=picture)).status == 429
            assert (await client.post("/process_image", data=PNG)).status == 200

    async def test_what_is_declared_larger_than_any_body_is_413_and_not_worth_a_retry(self, serve: Serve) -> None:
        client = await serve(max_queue_mb=1)
        async with (
            connection(client, "Content-Length: 1000000"),
            connection(client, "Content-Length: 99999999999") as reader,
        ):
            assert (await answer_of(reader))[0] == 413

    @pytest.mark.timeout(30)
    async def test_the_body_is_not_kept_beside_the_picture(self, serve: Serve, status_becomes: StatusBecomes) -> None:
        size = 4 * MIB
        client = await serve()
        await client.post("/load")
        tracemalloc.start()
        try:
            picture = PNG + bytes(size - len(PNG))
            body = json.dumps(
                {"image": base64.b64encode(picture).decode(), "prompt": "FAKE", "text_input": "hold"}
            ).encode()
            before = tracemalloc.get_traced_memory()[0]
            async with connection(client, f"Content-Length: {len(body)}", body=body):
                await status_becomes(client, in_flight=1, queue_bytes=size)
                while tracemalloc.get_traced_memory()[0] - before > 1.25 * size:  # until the pipe has taken its copy
                    assert (await client.get("/status")).status == 200
        finally:
            tracemalloc.stop()


class TestPlaces:
    async def test_slow_bodies_take_them_and_looking_takes_none(
        self, serve: Serve, status_becomes: StatusBecomes
    ) -> None:
        client = await serve(max_queue=2)
        async with connection(client, "Content-Length: 9"):
            async with connection(client, "Content-Length: 9", body=b"{"):
                await status_becomes(client, arriving=2)
                async with connection(client, "Content-Length: 9") as reader:
                    status, _, error = await answer_of(reader)
                    assert (status, error["code"]) == (429, "queue_full")
                for path in MONITORING:
                    assert (await client.get(path)).status == 200
            await status_becomes(client, arriving=1)
            assert (await ask(client))[0] == 200

    async def test_a_client_finds_its_place_by_its_request_id(
        self, serve: Serve, status_becomes: StatusBecomes
    ) -> None:
        client = await serve("--slots", "1")
        await client.post("/load")
        for i in range(4):
            posting = client.post("/process_image", data=HOLD, headers={"X-Request-Id": f"mine-{i}"})
            asyncio.get_running_loop().create_task(posting)
            await status_becomes(client, in_flight=1, queue_depth=i)
        status = await (await client.get("/status")).json()
        assert status["in_flight_ids"] == ["mine-0"]
        assert [(one["request_id"], one["position"]) for one in status["queue"]] == [
            ("mine-1", 1),
            ("mine-2", 2),
            ("mine-3", 3),
        ]
        [mine] = (await (await client.get("/status?request_id=mine-3")).json())["queue"]
        assert set(mine) == {"request_id", "model", "waits_s", "position"}
        assert (mine["position"], mine["model"]) == (3, "toy")
        assert "hold" not in json.dumps(status)
        assert BASE64[:16] not in json.dumps(status)


def behind(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


PROXY = {"trusted_proxies": ("127.0.0.0/8",)}


class TestClients:
    async def test_so_many_of_one_client_at_once(self, serve: Serve, status_becomes: StatusBecomes) -> None:
        client = await serve("--slots", "1", max_per_client=2, **PROXY)
        async with (
            connection(client, "X-Forwarded-For: 192.0.2.1", f"Content-Length: {len(HOLD)}", body=HOLD),
            connection(client, "X-Forwarded-For: 192.0.2.1", "Content-Length: 9"),
        ):
            await status_becomes(client, in_flight=1, arriving=1)
            for path in ("/process_image", "/load", "/unload"):
                refused = await client.post(path, headers=behind("192.0.2.1"))
                assert (refused.status, (await refused.json())["code"]) == (429, "too_many_requests"), path
                assert 1 <= int(refused.headers["Retry-After"]) <= 120
            assert (await client.post("/load", headers=behind("192.0.2.2"))).status == 200
            for path in MONITORING:
                assert (await client.get(path, headers=behind("192.0.2.1"))).status == 200
        await status_becomes(client, in_flight=0, arriving=0)
        assert (await client.post("/process_image", data=PNG, headers=behind("192.0.2.1"))).status == 200

    async def test_the_rate_and_when_to_come_back(self, serve: Serve, status_becomes: StatusBecomes) -> None:
        client = await serve(rate_limit_per_min=2, max_queue=1, **PROXY)

        async def post(address: str) -> tuple[int, str | None]:
            response = await client.post("/process_image", data=PNG, headers=behind(address))
            return response.status, response.headers.get("Retry-After")

        async with connection(client, "X-Forwarded-For: 192.0.2.9", "Content-Length: 9"):
            await status_becomes(client, arriving=1)
            for _ in range(5):
                assert (await post("192.0.2.1"))[0] == 429, "refused by the full queue, which costs no token"
        await status_becomes(client, arriving=0)
        assert [await post("192.0.2.1") for _ in range(2)] == [(200, None)] * 2
        status, retry_after = await post("192.0.2.1")
        assert status == 429
        assert 25 <= int(retry_after or 0) <= 30
        for path in MONITORING:
            assert (await client.get(path, headers=behind("192.0.2.1"))).status == 200
        assert (await post("192.0.2.2"))[0] == 200

    async def test_a_stranger_cannot_choose_who_he_is(self, serve: Serve) -> None:
        client = await serve(rate_limit_per_min=1)
        for address, status in (("192.0.2.1", 200), ("192.0.2.2", 429)):
            assert (await client.post("/process_image", data=PNG, headers=behind(address))).status == status


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.5, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.5, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.7, unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7, _hidden, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "198.51.100.7:5123", "198.51.100.7"),
        ("10.0.0.1", "[2001:db8:1:2:3::4]:5123", "2001:db8:1:2::/64"),
        ("10.0.0.1", "[2001:db8:1:2:3::4]", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:3::4", "", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::4", "", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "", "fe80::/64"),
        ("::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("::ffff:192.0.2.1", "", "192.0.2.1"),
        ("fd00::7", "198.51.100.7", "198.51.100.7"),
        ("::1", "198.51.100.7", "::/64"),
        ("", "198.51.100.7", ""),
        ("10.0.0.1", "\x00, 1.2.3, 999.1.1.1, ::g, " + "9" * 5000, "10.0.0.1"),
    ],
)
def test_who_the_client_is(peer: str, forwarded: str, client: str) -> None:
    proxies = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
    assert client_of(peer, forwarded, proxies) == client


class TestLeaving:
    """A client that leaves, by its socket."""

    async def test_queued_and_in_flight_the_next_one_comes_in_and_nobody_else_goes(
        self, serve: Serve, status_becomes: StatusBecomes, tmp_path: Path
    ) -> None:
        gate = tmp_path / "gate"
        client = await serve("--slots", "2", max_queue=1)
        await client.post("/load")

        async def come(text: str) -> Stream:
            body = json.dumps({"image": BASE64, "prompt": "FAKE", "text_input": text}).encode()
            return await begin(client, f"Content-Length: {len(body)}", body=body)

        staying = await come(f"gate:{gate}")
        running = await come("hold")
        await status_becomes(client, in_flight=2)
        queued = await come("hold")
        await status_becomes(client, in_flight=2, queue_depth=1)
        assert (await ask(client))[0] == 429
        queued[1].transport.abort()
        await status_becomes(client, in_flight=2, queue_depth=0, queue_bytes=2 * len(PNG))
        last = asyncio.create_task(ask(client, prompt="FAKE", text_input="last"))
        await status_becomes(client, in_flight=2, queue_depth=1)
        running[1].transport.abort()
        assert (await last)[1]["result"] == f"<FAKE>|last|{len(PNG)}"
        await status_becomes(client, in_flight=1, queue_depth=0, queue_bytes=len(PNG))
        gate.touch()
        status, _, body = await answer_of(staying[0])
        assert (status, body["result"]) == (200, f"<FAKE>|gate:{gate}|{len(PNG)}")
        assert (await (await client.get("/status")).json())["restarts"] == 0
        staying[1].transport.abort()
