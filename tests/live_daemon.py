"""The real application on a free loopback port, its worker the one without a model, for tests that come by HTTP."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestServer

from vision_server.api.app import create_app
from vision_server.settings import Settings


@asynccontextmanager
async def live_daemon(directory: Path, *worker: str, **settings: Any) -> AsyncIterator[str]:
    """Its address. `directory` becomes a checkpoint of that name; `worker` are flags of tests.fake_worker."""
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    app = create_app(
        Settings(**{"model": str(directory), **settings}), (sys.executable, "-m", "tests.fake_worker", *worker)
    )
    async with TestServer(app, host="127.0.0.1") as server:
        yield str(server.make_url("")).rstrip("/")
