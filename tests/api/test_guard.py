"""Host, Origin and key: who is let in, and that nobody else reaches a handler."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from .conftest import Serve

KEYED = ("/status", "/prompts", "/model", "/nowhere")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:54880", 200),
        ("LocalHost.", 200),
        ("127.0.0.1:1", 200),
        ("127.8.9.1", 200),
        ("[::1]:54880", 200),
        ("box.localhost", 200),
        ("friendly.example", 200),
        ("Friendly.Example:99", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example:54880", 403),
        ("192.168.1.2", 403),
        ("[::2]", 403),
        ("0.0.0.0", 403),
        ("", 403),
        ("localhost@evil.example", 403),
        ("[", 403),
    ],
)
@pytest.mark.parametrize("path", ["/status", "/health", "/ready"])
async def test_on_loopback_only_local_and_listed_names(serve: Serve, host: str, status: int, path: str) -> None:
    client = await serve(allowed_hosts=("friendly.example",))
    response = await client.get(path, headers={"Host": host})
    assert response.status == status
    if status == 403:
        assert (await response.json())["code"] == "forbidden"


async def test_elsewhere_any_name_unless_some_are_listed(serve: Serve) -> None:
    client = await serve(host="0.0.0.0", allow_anonymous=True)
    assert (await client.get("/status", headers={"Host": "box.lan"})).status == 200
    client = await serve(host="0.0.0.0", allow_anonymous=True, allowed_hosts=("box.lan",))
    assert (await client.get("/status", headers={"Host": "box.lan:80"})).status == 200
    assert (await client.get("/status", headers={"Host": "localhost"})).status == 200
    assert (await client.get("/status", headers={"Host": "other.lan"})).status == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost:5"}, 200),  # the Host header below
        ({"Origin": "HTTP://LOCALHOST:5"}, 200),
        ({"Origin": "https://app.example"}, 200),
        ({"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://localhost:6"}, 403),
        ({"Origin": "http://localhost"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://app.example"}, 403),
        ({"Origin": "https://app.example.evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "Cross-Site"}, 403),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/prompts"), ("POST", "/unload")])
async def test_foreign_pages_are_refused(
    serve: Serve, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    client = await serve(allowed_origins=("https://app.example",))
    response = await client.request(method, path, headers={"Host": "localhost:5", **headers})
    assert response.status == status
    allowed = headers.get("Origin") == "https://app.example"
    assert response.headers.get("Access-Control-Allow-Origin") == ("https://app.example" if allowed else None)


async def test_a_foreign_form_starts_nothing(serve: Serve) -> None:
    client = await serve()
    form = aiohttp.FormData({"prompt": "CAPTION"}, default_to_multipart=True)
    response = await client.post("/process_image", data=form, headers={"Origin": "https://evil.example"})
    assert response.status == 403
    assert (await client.post("/load", headers={"Sec-Fetch-Site": "cross-site"})).status == 403
    assert (await (await client.get("/status")).json())["state"] == "unloaded"


async def test_the_preflight_of_a_listed_origin(serve: Serve) -> None:
    client = await serve(allowed_origins=("https://app.example",), api_key="k")
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    response = await client.options("/process_image", headers={"Origin": "https://app.example", **asked})
    assert response.status == 204
    assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "Authorization" in response.headers["Access-Control-Allow-Headers"]
    assert response.headers["Vary"] == "Origin"
    response = await client.options("/process_image", headers={"Origin": "https://evil.example", **asked})
    assert response.status == 403
    assert "Access-Control-Allow-Origin" not in response.headers
    assert (await client.options("/process_image")).status == 401


async def test_errors_too_can_be_read_by_a_listed_origin(serve: Serve) -> None:
    client = await serve(allowed_origins=("https://app.example",))
    response = await client.get("/nowhere", headers={"Origin": "https://app.example"})
    assert response.status == 404
    assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer s3cret"}, 200),
        ({"Authorization": "bearer   s3cret "}, 200),
        ({"X-API-Key": "s3cret"}, 200),
        ({}, 401),
        ({"Authorization": "Bearer s3cre"}, 401),
        ({"Authorization": "Bearer s3cret2"}, 401),
        ({"Authorization": "Basic s3cret"}, 401),
        ({"Authorization": "s3cret"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer s3crét"}, 401),
        ({"X-API-Key": "wrong"}, 401),
        ({"X-API-Key": "wrong", "Authorization": "Bearer s3cret"}, 401),
    ],
)
async def test_the_key_is_asked_everywhere_but_at_the_probes(
    serve: Serve, headers: dict[str, str], status: int
) -> None:
    client = await serve(api_key="s3cret")
    for path in KEYED:
        response = await client.get(path, headers=headers)
        assert response.status == (404 if (path, status) == ("/nowhere", 200) else status)
    for path in ("/health", "/ready"):
        assert (await client.get(path, headers=headers)).status == 200
    for path in ("/load", "/unload", "/process_image"):
        response = await client.post(path, headers=headers)
        assert (response.status == 401) == (status == 401)
    if status == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"
        body: dict[str, Any] = await response.json()
        assert body["code"] == "unauthorized"
        assert "s3cret" not in str(body)


async def test_http_1_0_probes_need_no_host(serve: Serve) -> None:
    client = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"GET /health HTTP/1.0\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"200"
    writer.close()
    await writer.wait_closed()
