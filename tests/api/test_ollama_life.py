"""Ollama's `keep_alive`, loading and unloading, refusals, and clients that leave; by the real `ollama` package."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ollama
import pytest

from vision_server.api import streams
from vision_server.api.keys import QUEUE

from .asking import BASE64, PNG, StatusBecomes, ask, asked_times, busy, until_asked
from .conftest import Client, Serve
from .ollama_asking import CHAT, FAKE, GENERATE, asking, chatting, refused, sdk


async def status_of(client: Client) -> Any:
    return await (await client.get("/status")).json()


@pytest.mark.parametrize("route", [GENERATE, CHAT])
async def test_keep_alive_in_its_four_forms(serve: Serve, status_becomes: StatusBecomes, route: str) -> None:
    client = await serve(idle_timeout_s=1000.0)
    async with sdk(client) as ai:

        async def left_s(keep_alive: Any) -> float | None:
            if route == CHAT:
                await ai.chat(**chatting(keep_alive=keep_alive))
            else:
                await ai.generate(**asking(keep_alive=keep_alive))
            idle_s: float | None = (await status_of(client))["idle_unload_in_s"]
            return idle_s

        forms: list[tuple[Any, float]] = [(7200, 7200), ("5m", 300), ("90", 90), ("1h30m", 5400), (None, 1000)]
        for keep_alive, most_s in forms:
            found_s = await left_s(keep_alive)
            assert found_s is not None
            assert most_s * 0.3 < found_s <= most_s
        for never in (-1, "-1", "-1m", -0.5):
            assert await left_s(never) is None
        assert (await status_of(client))["loads"] == 1
        await left_s(0)
        await status_becomes(client, state="unloaded", unloads_by_cause={"idle": 1})
        await left_s("0s")
        await status_becomes(client, state="unloaded", unloads_by_cause={"idle": 2})


@pytest.mark.parametrize("stream", [False, True])
async def test_without_a_prompt_and_without_messages_it_loads_and_unloads(serve: Serve, stream: bool) -> None:
    client = await serve()

    async def last(asked: Any) -> Any:
        return [part async for part in await asked][-1] if stream else await asked

    async with sdk(client) as ai:
        for asked in (ai.generate, ai.chat):
            loaded = await last(asked(model="toy", keep_alive="1h", stream=stream))
            assert (loaded.model, loaded.done, loaded.done_reason) == ("toy", True, "load")
            status = await status_of(client)
            assert status["state"] == "ready"
            assert 3000 < status["idle_unload_in_s"] <= 3600
            gone = await last(asked(model="toy", keep_alive=0, stream=stream))
            assert (gone.model, gone.done, gone.done_reason) == ("toy", True, "unload")
            assert (await status_of(client))["state"] == "unloaded"
            assert (await ai.ps()).models == []
        assert (await last(ai.generate("toy", keep_alive=0, stream=stream))).done_reason == "unload"  # nothing to do
    status = await status_of(client)
    assert (status["loads"], status["unloads_by_cause"], status["restarts"]) == (2, {"unload": 2}, 0)
    assert (status["arriving"], status["queue_bytes"]) == (0, 0)


async def test_a_load_that_takes_long_says_so_line_by_line_and_takes_no_place(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PING_S", 0.01)
    client = await serve("--load", "slow", "--gate", str(tmp_path / "gate"))
    async with sdk(client) as ai:
        stream = await ai.generate("toy", stream=True)
        first = await anext(stream)
        assert (first.done, first.response) == (False, "")
        assert (await status_of(client))["arriving"] == 0
        (tmp_path / "gate").touch()
        assert [part.done_reason async for part in stream][-1] == "load"


async def test_unloading_waits_for_what_was_asked_before(
    serve: Serve, status_becomes: StatusBecomes, tmp_path: Path
) -> None:
    client = await serve("--slots", "1")
    gate = tmp_path / "gate"
    async with sdk(client) as ai:
        held = asyncio.ensure_future(ai.generate(**asking(f"<VQA> gate:{gate}")))
        await status_becomes(client, in_flight=1)
        unloading = asyncio.ensure_future(ai.generate("toy", keep_alive=0))
        await until_asked(client, "/status", 200, await asked_times(client, "/status", 200))
        assert not held.done()
        assert not unloading.done()
        gate.touch()
        assert (await held).response == f"<VQA>|gate:{gate}|{len(PNG)}"
        assert (await unloading).done_reason == "unload"
    assert (await status_of(client))["unloads_by_cause"] == {"unload": 1}


async def test_unloading_one_leaves_the_other(serve: Serve, two: Any) -> None:
    client = await serve(models=two, model="owner/toy")
    async with sdk(client) as ai:
        assert (await ai.generate("fine-tune")).done_reason == "load"
        assert (await ai.generate("owner/toy", keep_alive=0)).done_reason == "unload"
        assert [one.name for one in (await ai.ps()).models] == ["fine-tune:latest"]
        assert (await ai.chat("fine-tune", keep_alive=0)).done_reason == "unload"
        assert (await ai.ps()).models == []


async def test_a_load_that_fails_is_an_error(serve: Serve) -> None:
    client = await serve("--load", "fail")
    async with sdk(client) as ai:
        with pytest.raises(ollama.ResponseError) as caught:
            await ai.generate("toy")
    assert caught.value.status_code == 503
    assert "checkpoint" in caught.value.error


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "nobody"}, 404, "model 'nobody' not found"),
        ({"images": ["AAAA"]}, 415, "decoded here"),
        ({"images": ["!"]}, 400, "base64"),
        ({"images": [None]}, 400, "base64"),
        ({"images": BASE64}, 400, "list"),
        ({"images": ["http://img.example/a.png"]}, 422, "address"),
        ({"prompt": ["<OD>"]}, 400, "prompt must be text"),
        ({"prompt": "<NONSENSE>"}, 400, "<CAPTION>"),
        ({"keep_alive": "soon"}, 400, "keep_alive"),
        ({"stream": "perhaps"}, 400, "stream"),
        ({"region": [1, 2, 3]}, 400, "region"),
    ],
)
async def test_what_is_wrong_is_told_in_one_sentence(serve: Serve, body: Any, status: int, words: str) -> None:
    client = await serve()
    response = await client.post(GENERATE, json=asking(**body))
    assert response.status == status
    answer = await response.json()
    assert set(answer) == {"error"}
    assert words in answer["error"]
    assert (await status_of(client))["loads"] == 0


@pytest.mark.parametrize(
    "messages", ["hello", [7], [{"role": "user", "content": [{"type": "text"}]}], {"role": "user"}]
)
async def test_messages_that_are_wrong(serve: Serve, messages: Any) -> None:
    client = await serve()
    response = await client.post(CHAT, json={"messages": messages})
    assert (response.status, set(await response.json())) == (400, {"error"})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_broken_picture_has_its_status_before_the_first_line(serve: Serve, stream: bool) -> None:
    client = await serve()
    response = await client.post(GENERATE, json=asking("<VQA> bad", stream=stream))
    assert (response.status, response.content_type) == (415, "application/json")
    assert await response.json() == {"error": "A bad picture."}


async def test_a_late_error_is_a_line_and_is_counted(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PING_S", 0.01)
    client = await serve("--load", "slow", "--gate", str(tmp_path / "gate"))
    async with sdk(client) as ai:
        stream = await ai.generate(stream=True, **asking("<VQA> bad"))
        await anext(stream)
        (tmp_path / "gate").touch()
        with pytest.raises(ollama.ResponseError, match="A bad picture"):
            [part async for part in stream]
    metrics = await (await client.get("/metrics")).text()
    assert f'vision_request_failures_total{{reason="bad_image",route="{GENERATE}"}} 1.0' in metrics


async def test_a_full_queue(serve: Serve, status_becomes: StatusBecomes, tmp_path: Path) -> None:
    client = await serve("--slots", "1", max_queue=1)
    async with busy(client, status_becomes, tmp_path / "gate"):
        error = await refused(client)
        assert (error.status_code, "places" in error.error) == (429, True)
        response = await client.post(CHAT, json=chatting())
        assert response.status == 429
        assert 1 <= int(response.headers["Retry-After"]) <= 120
        for path in ("/api/tags", "/api/ps", "/api/version"):
            assert (await client.get(path)).status == 200
        assert (await client.post("/api/show", json={"model": "toy"})).status == 200


async def test_a_server_that_leaves(serve: Serve) -> None:
    client = await serve()
    assert client.app is not None
    await client.app[QUEUE].drain()
    error = await refused(client)
    assert (error.status_code, error.error) == (503, "The server is shutting down.")
    response = await client.post(GENERATE, json={"model": "toy"})
    assert (response.status, int(response.headers["Retry-After"]) > 0) == (503, True)


async def test_a_worker_that_crashes_and_a_wait_that_is_too_long(serve: Serve) -> None:
    client = await serve("--slots", "2", request_timeout_s=20.0)
    assert (await refused(client, "<VQA> crash")).status_code == 500
    short = await serve("--slots", "1", request_timeout_s=0.5)
    assert (await refused(short, "<VQA> hold")).status_code == 504


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (lambda c: c.get("/api/tags", headers={"Authorization": "Bearer wrong"}), 401),
        (lambda c: c.post(GENERATE, json={}), 401),
        (lambda c: c.get("/api/ps", headers={"Origin": "https://evil.example"}), 403),
        (lambda c: c.post("/api/pull", json={}, headers={"X-API-Key": "right"}), 404),
        (lambda c: c.get(GENERATE, headers={"X-API-Key": "right"}), 405),
        (lambda c: c.post(CHAT, data=b"[", headers={"X-API-Key": "right"}), 400),
        (lambda c: c.post("/api/show", data=b"", headers={"X-API-Key": "right"}), 400),
        (lambda c: c.post(GENERATE, data=io.BytesIO(b"x" * (2 << 20)), headers={"X-API-Key": "right"}), 413),
    ],
)
async def test_every_refusal_is_in_its_shape(serve: Serve, asked: Callable[[Client], Any], status: int) -> None:
    client = await serve(api_key="right", max_body_mb=0.5)
    response = await asked(client)
    assert response.status == status
    body = await response.json()
    assert set(body) == {"error"}
    assert isinstance(body["error"], str)


async def test_the_key(serve: Serve) -> None:
    client = await serve(api_key="right")
    assert (await refused(client, headers={"Authorization": "Bearer wrong"})).status_code == 401
    async with sdk(client, headers={"Authorization": "Bearer right"}) as ai:
        assert (await ai.generate(**asking())).response == FAKE


async def test_a_client_gone_within_a_stream_frees_its_place(
    serve: Serve, status_becomes: StatusBecomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PING_S", 0.01)
    client = await serve("--slots", "1")
    async with sdk(client) as ai:
        stream: Any = await ai.generate(stream=True, **asking("<VQA> hold"))
        assert (await anext(stream)).response == ""
        await status_becomes(client, in_flight=1)
        await stream.aclose()
    await status_becomes(client, in_flight=0, queue_bytes=0, arriving=0)
    await until_asked(client, GENERATE, 499, 1)


async def test_a_client_that_runs_out_of_patience_frees_its_place(
    serve: Serve, status_becomes: StatusBecomes, tmp_path: Path
) -> None:
    client = await serve("--slots", "1", "--load", "slow", "--gate", str(tmp_path / "gate"))
    waiting = [
        asyncio.ensure_future(client.post(route, data=json.dumps(body)))
        for route, body in ((CHAT, chatting(stream=False)), (GENERATE, {"stream": False}), (GENERATE, {}))
    ]
    await status_becomes(client, state="loading", queue_depth=1, arriving=0)
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    await until_asked(client, CHAT, 499, 1)
    await until_asked(client, GENERATE, 499, 2)
    await status_becomes(client, queue_depth=0, queue_bytes=0, arriving=0)


async def test_quotas_and_the_log_hold_here_too(serve: Serve) -> None:
    client = await serve(rate_limit_per_min=1)
    first = await client.post(GENERATE, json=asking(stream=False), headers={"X-Request-Id": "mine"})
    assert (first.status, first.headers["X-Request-Id"]) == (200, "mine")
    assert (await refused(client)).status_code == 429
    assert await asked_times(client, GENERATE, 200) == 1
    assert "vision_generation_tokens_total 3.0" in await (await client.get("/metrics")).text()
    assert (await ask(client))[0] == 429
