"""The real application over a real socket; behind its queue a real worker process without a model."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient

from vision_server.api.app import create_app
from vision_server.setting_models import ModelEntry
from vision_server.settings import Settings

Client = TestClient[web.Request, web.Application]


class Serve(Protocol):
    """Start the server; positional arguments go to the fake worker, the others are settings."""

    def __call__(self, *worker: str, **settings: Any) -> Awaitable[Client]: ...


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a checkpoint called "toy"."""
    directory = tmp_path / "toy"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    return directory


@pytest.fixture
def serve(aiohttp_client: AiohttpClient, folder: Path) -> Serve:
    async def start(*worker: str, **settings: Any) -> Client:
        chosen = Settings(**{"model": str(folder), "prompts": ("<FAKE>",), **settings})
        command = (sys.executable, "-m", "tests.fake_worker", *worker)
        return await aiohttp_client(create_app(chosen, command))

    return start


@pytest.fixture
def two(folder: Path) -> tuple[ModelEntry, ...]:
    """The setting `models` with two that lie in one folder; the default one comes second."""
    return (
        ModelEntry("fine-tune", str(folder), prompts=("<TAGS_OF_MINE>",), idle_timeout_s=7.0),
        ModelEntry("owner/Toy", str(folder)),
    )


@pytest.fixture
def status_becomes() -> Callable[..., Awaitable[dict[str, Any]]]:
    """Ask GET /status until it holds these values; the test's own timeout ends a vain wait."""

    async def wait(client: Client, **values: Any) -> dict[str, Any]:
        while True:
            status: dict[str, Any] = await (await client.get("/status")).json()
            if values.items() <= status.items():
                return status

    return wait
