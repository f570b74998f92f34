"""A worker process starts while the body of an admitted request still arrives, and for nothing else."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from vision_server.api.keys import QUEUE
from vision_server.worker import standby

from .asking import PNG, StatusBecomes
from .conftest import Client, Serve

GETS = ("/status", "/prompts", "/model", "/health", "/ready", "/nowhere", "/process_image")


async def halves(client: Client, status_becomes: StatusBecomes, body: bytes, pids: list[int]) -> AsyncIterator[bytes]:
    """A body whose second half comes when a process waits for it, which goes into `pids`."""
    yield body[: len(body) // 2]
    status: dict[str, Any] = {}
    while not status.get("standby_pid"):
        status = await status_becomes(client, state="unloaded")
    pids.append(status["standby_pid"])
    assert psutil.pid_exists(pids[0])
    yield body[len(body) // 2 :]


async def status_of(client: Client, key: str = "") -> dict[str, object]:
    answer: dict[str, object] = await (await client.get("/status", headers={"X-API-Key": key})).json()
    return answer


def children() -> list[psutil.Process]:
    return psutil.Process().children()


@pytest.mark.parametrize("standby_too", [False, True])
async def test_a_body_in_two_halves_finds_its_worker_started(
    serve: Serve, status_becomes: StatusBecomes, standby_too: bool
) -> None:
    client = await serve(standby=standby_too)
    pids: list[int] = []

    response = await client.post("/process_image", data=halves(client, status_becomes, PNG, pids))
    assert response.status == 200
    status = await status_of(client)
    assert (status["worker_pid"], status["loads"], status["restarts"]) == (pids[0], 1, 0)
    await status_becomes(client, standby_pid=None)
    assert [child.pid for child in children()] == pids


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "wrong"},
        {},
        {"X-API-Key": "k", "Host": "evil.example"},
        {"X-API-Key": "k", "Origin": "https://evil.example"},
        {"X-API-Key": "k", "Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_who_is_refused_starts_nothing(serve: Serve, headers: dict[str, str]) -> None:
    client = await serve(api_key="k")
    response = await client.post("/process_image", data=PNG, headers=headers)
    assert response.status in (401, 403)
    assert (await status_of(client, "k"))["standby_pid"] is None
    assert children() == []


async def test_looking_starts_nothing(serve: Serve) -> None:
    client = await serve()
    for path in GETS:
        await client.get(path)
    await client.options("/process_image")
    assert (await status_of(client))["standby_pid"] is None
    assert children() == []


async def test_what_is_too_large_by_its_own_word_starts_nothing(serve: Serve) -> None:
    client = await serve(max_body_mb=0.001)
    response = await client.post("/process_image", data=io.BytesIO(b"x" * (2 << 20)))
    assert response.status == 413
    assert (await status_of(client))["standby_pid"] is None
    assert children() == []


async def test_a_full_queue_starts_nothing(serve: Serve) -> None:
    client = await serve()
    assert client.app is not None
    client.app[QUEUE].capacity = 0
    assert (await client.post("/process_image", data=PNG)).status == 429
    assert (await status_of(client))["standby_pid"] is None
    assert children() == []


async def test_a_body_that_is_no_picture_leaves_a_process_that_goes_soon(
    serve: Serve, status_becomes: StatusBecomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "LINGER_S", 0.2)
    client = await serve()
    pids: list[int] = []
    response = await client.post("/process_image", data=halves(client, status_becomes, b"no picture", pids))
    assert response.status == 415
    await status_becomes(client, standby_pid=None, state="unloaded", loads=0)
    assert not psutil.pid_exists(pids[0])
