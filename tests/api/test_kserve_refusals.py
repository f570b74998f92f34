"""What KServe's calls refuse, and in what words; what goes wrong on the way, as Triton's clients see it."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import tritonclient.http.aio as triton
from aiohttp import ClientResponse

from tests.triton import batch
from vision_server.api.keys import QUEUE

from .asking import BASE64, PNG, StatusBecomes, tensors
from .conftest import Client, Serve
from .test_kserve import ROUTE, refused

HELD = (b"<VQA>", b"hold")


@asynccontextmanager
async def sdk(client: Client) -> AsyncIterator[Any]:
    async with triton.InferenceServerClient(f"127.0.0.1:{client.port}", conn_timeout=120) as server:
        yield server


async def sentence(response: ClientResponse) -> str:
    """The error, which is nothing but a sentence."""
    said = await response.json()
    assert set(said) == {"error"}
    assert "X-Request-Id" in response.headers
    return str(said["error"])


def mixed(*pictures: bytes, prompt: bytes = b"<FAKE>", texts: tuple[bytes, ...] = ()) -> list[Any]:
    return batch([*pictures], prompt, *texts)


@pytest.mark.parametrize(
    ("inputs", "status", "words"),
    [
        (mixed(PNG, b"hello", PNG), 400, ("Picture 2 of 3", "base64")),
        (mixed(PNG, PNG, b"\xff\xfe hello"), 415, ("Picture 3 of 3",)),
        (mixed(PNG[:20], PNG), 415, ("Picture 1 of 2",)),
        (mixed(b""), 415, ()),
        (mixed(PNG, PNG, prompt=b"<VQA>", texts=(b"?", b"bad")), 415, ("Picture 2 of 2", "A bad picture")),
        (mixed(PNG, PNG, prompt=b"<VQA>", texts=(b"?", b"")), 400, ("Picture 2 of 2", "needs a text")),
        (mixed(PNG, prompt=b"<NONSENSE>"), 400, ("not known", "<FAKE>")),
        (mixed(PNG, prompt=b"What is this?"), 400, ("not known",)),
        (mixed(PNG, prompt=b"\xff"), 400, ("TASK_PROMPT", "UTF-8")),
        (mixed(PNG, prompt=b"<OD>", texts=(b"a car",)), 400, ("takes no text",)),
        (mixed(b"http://img.example/a.png"), 422, ()),
        (mixed(b"file:///etc/passwd"), 422, ()),
        (mixed(PNG)[:1], 400, ("TASK_PROMPT",)),
        (mixed(PNG, prompt=b"<VQA>", texts=(b"crash",)), 500, ("crashed",)),
    ],
)
async def test_a_picture_that_is_wrong_refuses_the_request_and_is_named(
    serve: Serve, inputs: list[Any], status: int, words: tuple[str, ...]
) -> None:
    client = await serve()
    async with sdk(client) as server:
        with refused(status, *words):
            await server.infer("florence2", inputs)
    now = await (await client.get("/status")).json()
    assert (now["in_flight"], now["queue_depth"], now["queue_bytes"]) == (0, 0, 0)


async def test_nothing_of_a_batch_is_begun_where_it_does_not_fit(
    serve: Serve, status_becomes: StatusBecomes, tmp_path: Path
) -> None:
    client = await serve("--slots", "1", "--tally", str(tmp_path / "tally"), max_queue=2)
    async with sdk(client) as server:
        held = asyncio.ensure_future(server.infer("florence2", batch([PNG], *HELD)))
        await status_becomes(client, in_flight=1)
        with refused(429, "places"):
            await server.infer("florence2", batch([PNG] * 3))
        await status_becomes(client, in_flight=1, queue_depth=0, arriving=0, queue_bytes=len(PNG))
        assert (tmp_path / "tally").read_bytes() == b"1"
        waiting = asyncio.ensure_future(server.infer("florence2", batch([PNG] * 2)))
        await status_becomes(client, in_flight=1, queue_depth=2)
        response = await client.post(ROUTE, data=b"not even JSON")
        assert (response.status, 1 <= int(response.headers["Retry-After"]) <= 120) == (429, True)
        assert "places" in await sentence(response)
        for one in (held, waiting):
            one.cancel()
        await asyncio.gather(held, waiting, return_exceptions=True)
    await status_becomes(client, in_flight=0, queue_depth=0, queue_bytes=0)


async def test_a_client_that_leaves_takes_its_batch_along(serve: Serve, status_becomes: StatusBecomes) -> None:
    client = await serve("--slots", "2")
    async with sdk(client) as server:
        held = asyncio.ensure_future(server.infer("florence2", batch([PNG] * 5, b"<VQA>", *[b"hold"] * 5)))
        await status_becomes(client, in_flight=2, queue_depth=3)
        held.cancel()
        await status_becomes(client, in_flight=0, queue_depth=0, queue_bytes=0)
        await server.infer("florence2", batch([PNG]))
        [stats] = (await server.get_inference_statistics("florence2"))["model_stats"]
    assert (stats["inference_stats"]["fail"]["count"], stats["inference_count"]) == (1, 1)


async def test_a_server_that_leaves(serve: Serve) -> None:
    client = await serve()
    assert client.app is not None
    await client.app[QUEUE].drain()
    async with sdk(client) as server:
        assert not await server.is_server_live()
        assert not await server.is_server_ready()
        assert not await server.is_model_ready("florence2")
        with refused(503, "shutting down"):
            await server.infer("florence2", batch([PNG]))
        with refused(503, "shutting down"):
            await server.load_model("florence2")
        states = {(one["state"], one["reason"]) for one in await server.get_model_repository_index()}
        assert states == {("UNAVAILABLE", "The server is shutting down.")}
    response = await client.get("/v2/health/ready")
    assert (response.status, "Retry-After" in response.headers) == (503, True)
    assert "shutting down" in await sentence(response)


async def test_a_model_that_cannot_be_loaded(serve: Serve, two: Any) -> None:
    client = await serve("--load", "fail", "--only", "fine-tune", models=two, model="owner/Toy", api_key="right")
    key = {"X-API-Key": "right"}
    async with sdk(client) as server:
        with refused(503, "cannot be loaded"):
            await server.load_model("fine-tune", headers=key)
        assert not await server.is_model_ready("fine-tune", headers=key)
        assert await server.is_model_ready("owner/Toy", headers=key)
        listed = {one["name"]: (one["state"], one["reason"]) for one in await server.get_model_repository_index(key)}
        assert listed["owner/Toy"] == listed["florence2"] == ("READY", "")
        assert listed["fine-tune"][0] == "UNAVAILABLE"
        assert "The fake checkpoint cannot be loaded" in listed["fine-tune"][1]
    response = await client.post("/v2/repository/index", json={"ready": True}, headers=key)
    assert [one["name"] for one in await response.json()] == ["florence2", "owner/Toy"]
    assert "fake checkpoint" in await sentence(await client.get("/v2/models/fine-tune/ready", headers=key))


async def test_the_reason_of_a_failed_load_is_for_those_with_the_key(serve: Serve) -> None:
    client = await serve("--load", "fail", api_key="right")
    await client.post("/v2/repository/models/florence2/load", headers={"X-API-Key": "right"})
    assert "fake checkpoint" not in await sentence(await client.get("/v2/health/ready"))
    said = await sentence(await client.get("/v2/health/ready", headers={"X-API-Key": "right"}))
    assert "fake checkpoint" in said


async def test_the_key_is_asked_of_all_but_the_probes(serve: Serve) -> None:
    client = await serve(api_key="right")
    assert client.app is not None
    paths = {
        (route.method, route.resource.canonical)
        for route in client.app.router.routes()
        if route.resource is not None and route.resource.canonical.startswith("/v2") and route.method != "HEAD"
    }
    assert len(paths) > 10
    for method, path in paths:
        response = await client.request(method, path.format(model="toy", version="1"))
        assert response.status == (200 if path.startswith("/v2/health/") else 401), path
        if response.status == 401:
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert "key" in await sentence(response)
    wrong = await client.get("/v2", headers={"Authorization": "Bearer wrong"})
    assert (wrong.status, await sentence(wrong)) == (401, "The key is wrong.")


async def test_unloading_while_busy(serve: Serve, status_becomes: StatusBecomes, tmp_path: Path) -> None:
    client = await serve("--slots", "1")
    gate = f"gate:{tmp_path / 'gate'}".encode()
    async with sdk(client) as server:
        held = asyncio.ensure_future(server.infer("florence2", batch([PNG], b"<VQA>", gate)))
        await status_becomes(client, in_flight=1)
        with refused(409, "force=1"):
            await server.unload_model("florence2")
        forced = asyncio.ensure_future(server.unload_model("florence2", query_params={"force": 1}))
        (tmp_path / "gate").touch()
        await asyncio.gather(held, forced)
    await status_becomes(client, state="unloaded")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nope", "'nope' is not found. There are: florence2, toy."),
        ("owner/nope", "'owner/nope' is not found."),
        ("nope/versions/1", "'nope' is not found."),
        ("Toy/versions/2", "'Toy' version 2 is not found. Leave the version out, or ask for 1."),
        ("florence2/versions/x", "'florence2' version x is not found."),
    ],
)
async def test_models_and_versions_that_are_not_there(serve: Serve, model: str, words: str) -> None:
    """In Triton's words, which some of its users look for."""
    client = await serve()
    for below in ("", "/ready", "/stats", "/config"):
        response = await client.get(f"/v2/models/{model}{below}")
        assert (response.status, words in await sentence(response)) == (404, True)
    response = await client.post(f"/v2/models/{model}/infer", json=tensors(BASE64))
    assert response.status == 404
    assert (await sentence(response)).startswith(f"Request for unknown model: {words}")


WRONG_CALLS: list[tuple[Callable[[Client], Any], int]] = [
    (lambda c: c.get("/v2/nothing"), 404),
    (lambda c: c.get("/v2/models/toy/infer"), 405),
    (lambda c: c.post("/v2/models/toy/stats"), 405),
    (lambda c: c.delete("/v2"), 405),
    (lambda c: c.get("/v2", headers={"Host": "evil.example"}), 403),
    (lambda c: c.post(ROUTE, data=b"{}", headers={"Origin": "http://evil.example"}), 403),
    (lambda c: c.post("/v2/repository/models/toy/load", data=b"no JSON"), 400),
    (lambda c: c.post("/v2/repository/models/toy/load", json={"parameters": {"config": "{}"}}), 400),
    (lambda c: c.post("/v2/repository/models/toy/load", data=b" " * 100_000), 413),
    (lambda c: c.post("/v2/repository/models/toy/unload?force=maybe"), 400),
    (lambda c: c.post("/v2/repository/models/nope/load"), 404),
    (lambda c: c.post("/v2/repository/models/nope/unload"), 404),
    (lambda c: c.post("/v2/repository/index", json={"ready": "yes"}), 400),
    (lambda c: c.post("/v2/repository/index", json=[]), 400),
    (lambda c: c.post(ROUTE, data=b""), 400),
    (lambda c: c.post(ROUTE, data=b"{", headers={"Content-Type": "application/json"}), 400),
    (lambda c: c.post(ROUTE, data=b"[" * 90_000), 400),
    (lambda c: c.post(ROUTE, data=PNG), 400),
    (lambda c: c.post(ROUTE, json=tensors(BASE64), headers={"Inference-Header-Content-Length": "5"}), 400),
    (lambda c: c.post(ROUTE, json=tensors(BASE64), headers={"Inference-Header-Content-Length": "0"}), 400),
    (lambda c: c.post(ROUTE, data=io.BytesIO(bytes(3 << 20))), 413),
    (lambda c: c.post(ROUTE, data=gzip.compress(bytes(64 << 20)), headers={"Content-Encoding": "gzip"}), 413),
    (lambda c: c.post(ROUTE, data=b"not gzip", headers={"Content-Encoding": "gzip"}), 400),
]


@pytest.mark.parametrize(("call", "status"), WRONG_CALLS)
async def test_every_refusal_is_a_sentence(serve: Serve, call: Callable[[Client], Any], status: int) -> None:
    client = await serve(max_body_mb=1)
    response = await call(client)
    assert response.status == status
    assert len(await sentence(response)) > 20
    assert (await (await client.get("/status")).json())["loads"] == 0


async def test_a_request_counts_once_for_its_client(serve: Serve) -> None:
    client = await serve(rate_limit_per_min=2)
    async with sdk(client) as server:
        await server.infer("florence2", batch([PNG] * 4))
        await server.load_model("florence2")
        with refused(429, "2 times a minute"):
            await server.infer("florence2", batch([PNG]))
        assert await server.is_server_ready()


async def test_a_request_that_waits_too_long(serve: Serve) -> None:
    client = await serve(request_timeout_s=0.001)
    response = await client.post(ROUTE, json=tensors(BASE64))
    assert response.status == 504
    assert await sentence(response)


async def test_nothing_of_a_request_is_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    client = await serve()
    asked = {**tensors(BASE64, "<VQA>", "a-secret-text"), "id": "a-secret-id"}
    assert (await client.post(ROUTE, json=asked)).status == 200
    logged = json.dumps([record.__dict__ for record in caplog.records if "vision" in record.name], default=str)
    assert "/v2/models/florence2/infer" in logged
    assert "a-secret" not in logged
    assert BASE64[:30] not in logged
