"""What OpenAI's real client makes of refusals, and what becomes of a client that leaves."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web

from vision_server.api import streams
from vision_server.api.keys import QUEUE

from .asking import BASE64, PNG, StatusBecomes, asked_times, busy, until_asked
from .conftest import Client, Serve
from .openai_asking import FAKE, ROUTE, chat, refused, sdk


async def test_a_late_error_is_an_event_and_is_counted(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PING_S", 0.01)
    client = await serve("--load", "slow", "--gate", str(tmp_path / "gate"))
    async with sdk(client) as ai:
        stream = await ai.chat.completions.create(stream=True, **chat("<VQA> bad"))
        (tmp_path / "gate").touch()
        with pytest.raises(openai.APIError, match="A bad picture") as caught:
            [chunk async for chunk in stream]
    assert (caught.value.code, caught.value.type) == ("bad_image", "invalid_request_error")
    metrics = await (await client.get("/metrics")).text()
    assert f'vision_request_failures_total{{reason="bad_image",route="{ROUTE}"}} 1.0' in metrics
    assert await asked_times(client, ROUTE, 200) == 1


async def test_what_fails_before_the_first_byte_of_a_stream_has_its_status(serve: Serve) -> None:
    client = await serve()
    assert (await refused(client, chat("<VQA> bad", stream=True))).status_code == 415
    assert (await refused(client, chat("<NONSENSE>", stream=True))).status_code == 400


async def test_a_fault_of_ours_within_a_stream_is_neutral(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PING_S", 0.01)
    monkeypatch.setattr("vision_server.api.replies.answer", lambda *_: 1 / 0)
    client = await serve("--load", "slow", "--gate", str(tmp_path / "gate"))
    async with client.post(ROUTE, json=chat(stream=True)) as response:
        (tmp_path / "gate").touch()
        event = (await response.text()).split("\n\n")[-2]
    assert json.loads(event.removeprefix("data: "))["error"]["code"] == "internal"
    assert "division" not in event


async def test_each_of_several_pictures_takes_a_place(serve: Serve, status_becomes: StatusBecomes) -> None:
    client = await serve("--slots", "1", max_queue=2)
    async with sdk(client, max_retries=0) as ai:
        held = asyncio.ensure_future(ai.chat.completions.create(**chat("<VQA> hold", [BASE64] * 2)))
        await status_becomes(client, in_flight=1, queue_depth=1)
        assert (await refused(client, chat(images=[BASE64] * 2), max_retries=0)).status_code == 429
        await status_becomes(client, in_flight=1, queue_depth=1, arriving=0, queue_bytes=2 * len(PNG))
        held.cancel()
    await status_becomes(client, in_flight=0, queue_depth=0, queue_bytes=0)


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        (None, 400),
        ([], 400),
        ("hello", 400),
        ([7], 400),
        ([{"role": "user", "content": 7}], 400),
        ([{"role": "user", "content": [7]}], 400),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": None}]}], 415),
        ([{"role": "user", "content": [{"image_url": {"url": "data:image/png;base64,AAAA"}}]}], 415),
        ([{"role": "user", "content": [{"image_url": "http://img.example/a.png"}]}], 422),
        ([{"role": "user", "content": [{"image_url": "file:///etc/passwd"}]}], 422),
        ([{"role": "user"}], 200),
        ([{"role": "system", "content": "hello"}], 200),
    ],
)
async def test_messages_that_are_wrong_and_that_hold_no_picture(serve: Serve, messages: Any, status: int) -> None:
    client = await serve()
    response = await client.post(ROUTE, json={"messages": messages})
    assert response.status == status
    assert set(await response.json()) == ({"error"} if status != 200 else {*await response.json()} - {"error"})
    assert (await (await client.get("/status")).json())["loads"] == 0


async def test_a_mistake_is_told_once_and_not_retried(serve: Serve) -> None:
    client = await serve()
    error = await refused(client, chat("<NONSENSE>"), max_retries=2)
    assert isinstance(error, openai.BadRequestError)
    assert (error.code, error.type, error.param) == ("unknown_prompt", "invalid_request_error", None)
    assert error.response.headers["x-should-retry"] == "false"
    assert error.request_id
    assert await asked_times(client, ROUTE, 400) == 1


async def test_a_worker_that_crashes_on_a_request_is_not_asked_again(serve: Serve) -> None:
    client = await serve()
    error = await refused(client, chat("<VQA> crash"), max_retries=2)
    assert (error.status_code, error.code, error.type) == (500, "worker_crash", "server_error")
    assert await asked_times(client, ROUTE, 500) == 1


async def test_who_has_waited_too_long_is_not_made_to_wait_again(serve: Serve) -> None:
    client = await serve("--slots", "1", request_timeout_s=0.5)
    error = await refused(client, chat("<VQA> hold"), max_retries=2)
    assert (error.status_code, error.code, error.response.headers["x-should-retry"]) == (504, "timeout", "false")
    assert await asked_times(client, ROUTE, 504) == 1


async def test_a_full_queue_is_waited_for(serve: Serve, status_becomes: StatusBecomes, tmp_path: Path) -> None:
    client = await serve("--slots", "1", max_queue=1)
    async with busy(client, status_becomes, tmp_path / "gate"), sdk(client, max_retries=2) as ai:
        error = await refused(client, chat(stream=True), max_retries=0)
        assert isinstance(error, openai.RateLimitError)
        assert (error.code, error.type) == ("queue_full", "rate_limit_error")
        assert 1 <= int(error.response.headers["retry-after"]) <= 120
        assert "x-should-retry" not in error.response.headers
        patient = asyncio.ensure_future(ai.chat.completions.create(**chat()))
        await until_asked(client, ROUTE, 429, 2)
        (tmp_path / "gate").touch()
        assert (await patient).choices[0].message.content == FAKE


async def test_a_server_that_leaves(serve: Serve) -> None:
    client = await serve()
    assert client.app is not None
    await client.app[QUEUE].drain()
    error = await refused(client, chat(), max_retries=0)
    assert (error.status_code, error.code, error.type) == (503, "unavailable", "server_error")
    assert int(error.response.headers["retry-after"]) > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_runs_out_of_patience_frees_its_place(
    serve: Serve, status_becomes: StatusBecomes, stream: bool
) -> None:
    client = await serve("--slots", "1")
    async with sdk(client, timeout=0.5, max_retries=1) as ai:
        with pytest.raises(openai.APITimeoutError):
            await ai.chat.completions.create(**chat("<VQA> hold"), stream=stream)
    await status_becomes(client, in_flight=0, queue_depth=0, queue_bytes=0, arriving=0)
    await until_asked(client, ROUTE, 499, 2)


async def test_a_client_gone_within_a_stream_frees_its_place(
    serve: Serve, status_becomes: StatusBecomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PING_S", 0.01)
    client = await serve("--slots", "1")
    response = await client.post(ROUTE, json=chat("<VQA> hold", stream=True))
    assert (await response.content.readline()).startswith(b": ")
    await status_becomes(client, in_flight=1)
    response.close()
    await status_becomes(client, in_flight=0, queue_bytes=0, arriving=0)
    await until_asked(client, ROUTE, 499, 1)


async def test_a_client_that_is_found_gone_by_writing_is_no_fault_of_ours(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def lost(*_: Any) -> None:
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    client = await serve()
    with monkeypatch.context() as broken:
        broken.setattr(web.StreamResponse, "write", lost)
        with pytest.raises(aiohttp.ClientError):
            await (await client.post(ROUTE, json=chat(stream=True))).read()
    await until_asked(client, ROUTE, 499, 1)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    ("ask", "status", "kind"),
    [
        (lambda c: c.get("/v1/models", headers={"Authorization": "Bearer wrong"}), 401, "authentication_error"),
        (lambda c: c.post(ROUTE, json={}), 401, "authentication_error"),
        (lambda c: c.get("/v1/models", headers={"Origin": "https://evil.example"}), 403, "permission_error"),
        (lambda c: c.get("/v1/nothing", headers={"X-API-Key": "right"}), 404, "not_found_error"),
        (lambda c: c.get(ROUTE, headers={"X-API-Key": "right"}), 405, "invalid_request_error"),
        (lambda c: c.post(ROUTE, data=b"[", headers={"X-API-Key": "right"}), 400, "invalid_request_error"),
        (
            lambda c: c.post(ROUTE, data=io.BytesIO(b"x" * (4 << 20)), headers={"X-API-Key": "right"}),
            413,
            "invalid_request_error",
        ),
    ],
)
async def test_every_refusal_is_in_its_shape(
    serve: Serve, ask: Callable[[Client], Any], status: int, kind: str
) -> None:
    client = await serve(api_key="right", max_body_mb=0.5)
    response = await ask(client)
    assert (response.status, response.headers["x-should-retry"]) == (status, "false")
    body = await response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["type"] == kind
    assert isinstance(body["error"]["code"], str)


async def test_the_key(serve: Serve) -> None:
    client = await serve(api_key="right")
    error = await refused(client, chat(), api_key="wrong")
    assert isinstance(error, openai.AuthenticationError)
    async with sdk(client, api_key="right") as ai:
        assert (await ai.chat.completions.create(**chat())).choices[0].message.content == FAKE


async def test_quotas_and_the_log_hold_here_too(serve: Serve) -> None:
    client = await serve(rate_limit_per_min=1)
    first = await client.post(ROUTE, json=chat(), headers={"X-Request-Id": "mine"})
    assert (first.status, first.headers["X-Request-Id"]) == (200, "mine")
    assert first.headers["Server-Timing"].startswith("queue;dur=")
    error = await refused(client, chat(), max_retries=0)
    assert (error.status_code, error.code) == (429, "too_many_requests")
    assert await asked_times(client, ROUTE, 200) == 1
    assert "vision_generation_tokens_total 3.0" in await (await client.get("/metrics")).text()
