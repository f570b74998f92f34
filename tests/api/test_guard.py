"""Host, Origin and key: who is let in, and that nobody else reaches a handler."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from vision_server.api import page
from vision_server.api.guard import OPEN_PATHS, check_key
from vision_server.errors import BadSetting, Unauthorized
from vision_server.settings import Settings

from .conftest import Client, Serve

KEYED = ("/status", "/prompts", "/model", "/nowhere")

# All that may ever be served without a key: probes, the page, and how the calls are described.
MAY_BE_OPEN = {"/health", "/ready", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json", *page.PATHS}

LOCAL = {"Host": "localhost"}
STRANGERS = [
    {"Host": "evil.example"},
    {"Host": "evil.example", "X-Forwarded-Host": "localhost"},
    {**LOCAL, "Origin": "https://evil.example"},
    {**LOCAL, "Origin": "null"},
    {**LOCAL, "Origin": "http://localhost.evil.example"},
    {**LOCAL, "Sec-Fetch-Site": "cross-site"},
    {**LOCAL, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Content-Type": "multipart/form-data"},
    {**LOCAL, "Origin": "https://evil.example", "X-API-Key": "s3cret"},
]
KEYLESS = [{}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}, {"Cookie": "s3cret"}]


def every_call(client: Client) -> list[tuple[str, str]]:
    """Method and path of each route that is registered, so that a new one cannot be forgotten."""
    calls = [
        (route.method.replace("*", "GET"), re.sub(r"{[^}]*}", "x", route.resource.canonical))
        for route in client.app.router.routes()
        if route.resource is not None
    ]
    assert len(calls) >= 10
    return calls


@pytest.mark.parametrize("headers", STRANGERS, ids=str)
async def test_6_2_no_route_that_does_work_answers_a_foreign_page(serve: Serve, headers: dict[str, str]) -> None:
    client = await serve()
    for method, path in every_call(client):
        response = await client.request(method, path, headers=headers)
        foreign_host = headers["Host"] == "evil.example"
        assert (response.status == 403) == (foreign_host or path not in OPEN_PATHS), (method, path)
        assert "Access-Control-Allow-Origin" not in response.headers
    assert (await (await client.get("/status", headers=LOCAL)).json())["state"] == "unloaded"


@pytest.mark.parametrize("headers", KEYLESS, ids=str)
async def test_6_1_no_route_but_the_open_ones_answers_without_the_key(serve: Serve, headers: dict[str, str]) -> None:
    client = await serve(api_key="s3cret")
    for method, path in every_call(client):
        response = await client.request(method, path, headers=headers)
        assert (response.status == 401) == (path not in OPEN_PATHS), (method, path)
    # A path that does not exist tells a stranger nothing either, nor does another method.
    for method, path in (("GET", "/nowhere"), ("DELETE", "/status"), ("PUT", "/process_image")):
        assert (await client.request(method, path, headers=headers)).status == 401


async def test_6_1_what_is_open_is_on_the_list_and_shows_nothing(serve: Serve, folder: Path) -> None:
    assert OPEN_PATHS <= MAY_BE_OPEN
    client = await serve(api_key="s3cret", prompts=("<MY_OWN_PROMPT>",))
    for path in OPEN_PATHS:
        body = await (await client.get(path)).text()
        for secret in ("s3cret", folder.name, str(folder), "MY_OWN_PROMPT"):
            assert secret not in body, path


async def test_6_1_why_a_load_failed_is_told_with_the_key(serve: Serve) -> None:
    """The reason may name the checkpoint and its files."""
    client = await serve("--load", "fail", api_key="k")
    assert (await client.post("/load", headers={"X-API-Key": "k"})).status == 503
    for headers, told in (({}, False), ({"X-API-Key": "no"}, False), ({"X-API-Key": "k"}, True)):
        response = await client.get("/ready", headers=headers)
        assert response.status == 503
        assert ("fake checkpoint" in (await response.json())["error"]) == told


async def test_6_1_other_spellings_of_an_open_path_open_nothing_else(serve: Serve) -> None:
    client = await serve(api_key="s3cret")
    for path in ("/health/../status", "/health/%2e%2e/status", "/health//../status", "//status", "/status?/health",
                 "/status;/health", "/health%2f..%2fstatus", "/status%00/health", "/health/", "/HEALTH"):  # fmt: skip
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        assert answer.split()[1] in (b"400", b"401"), (path, answer)
        writer.close()
        await writer.wait_closed()


def test_6_1_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the one function that is made for it, with the whole of both keys."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, key: bytes) -> bool:
        compared.append((given, key))
        return given == key

    monkeypatch.setattr("vision_server.api.guard.hmac.compare_digest", compare)
    settings = Settings(api_key="s3cret")
    check_key({"X-API-Key": "s3cret"}, settings)
    with pytest.raises(Unauthorized):
        check_key({"X-API-Key": "s"}, settings)
    assert compared == [(b"s3cret", b"s3cret"), (b"s", b"s3cret")]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "box.lan"])
def test_6_1_beyond_loopback_a_key_or_allow_anonymous_must_be_said(host: str) -> None:
    with pytest.raises(BadSetting, match="allow-anonymous"):
        Settings(host=host)
    Settings(host=host, api_key="k")
    Settings(host=host, allow_anonymous=True)


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
        ("localhost:80@evil.example", 403),
        ("localhost:evil.example", 403),
        ("localhost/evil.example", 403),
        ("[::1].evil.example", 403),
        ("[::1]evil.example", 403),
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


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost/status", 200),
        ("http://127.0.0.1:1/status", 200),
        ("http://[::1]:54880/status", 200),
        ("http://evil.example/status", 403),
        ("http://localhost@evil.example/status", 403),
        ("HTTP://evil.example:80/health", 403),
    ],
)
async def test_the_host_of_a_whole_url_counts_too(serve: Serve, target: str, status: int) -> None:
    client = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    assert int(answer.split()[1]) == status, answer
    writer.close()
    await writer.wait_closed()


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


async def test_openais_sdk_may_send_what_it_adds_in_a_browser(serve: Serve) -> None:
    client = await serve(allowed_origins=("https://app.example",))
    sent = "authorization,content-type,x-stainless-arch, X-Stainless-Retry-Count,x-evil,x-stainless-a\tb"
    headers = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": sent,
    }
    response = await client.options("/v1/chat/completions", headers=headers)
    allowed = response.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert response.status == 204
    assert {"authorization", "content-type", "x-stainless-arch", "x-stainless-retry-count"} <= set(allowed)
    assert not {name for name in allowed if "evil" in name or "\t" in name}
    answer = await client.get("/v1/models", headers={"Origin": "https://app.example"})
    assert "X-Should-Retry" in answer.headers["Access-Control-Expose-Headers"]


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
