"""The daemon, or its worker, with a leak made on purpose, so that the soak can show that it would find one.

`python -m tests.bench.soak_leaky daemon KIB ...` is the command line as it is, but the daemon keeps so much of every
request that it has answered; with `worker` its worker does. Not a benchmark.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any
from unittest.mock import patch

from aiohttp import web
from aiohttp.typedefs import Handler

from vision_server import cli, daemon
from vision_server.api.app import create_app
from vision_server.worker import child, equipping
from vision_server.worker.protocol import Failed
from vision_server.worker.stepper import Prepared, prepare

_kept: list[bytes] = []


def leaking_app(leak_bytes: int, *given: Any) -> web.Application:
    @web.middleware
    async def leak(request: web.Request, handler: Handler) -> web.StreamResponse:
        _kept.append(os.urandom(leak_bytes))
        return await handler(request)

    app = create_app(*given)
    app.middlewares.append(leak)
    return app


def leaking_prepare(leak_bytes: int, *given: Any, **named: Any) -> Prepared | Failed:
    _kept.append(os.urandom(leak_bytes))
    return prepare(*given, **named)


def main(where: str, kib: str, *words: str) -> int:
    size = int(kib) << 10
    if where == "child":  # the worker that the daemon below starts
        with patch.object(equipping, "prepare", partial(leaking_prepare, size)):
            child.main()
    if where == "daemon":
        with patch.object(daemon, "create_app", partial(leaking_app, size)):
            return cli.main(words)
    command = (sys.executable, "-m", "tests.bench.soak_leaky", "child", kib)
    with patch.object(daemon, "main", partial(daemon.main, worker_command=command)):
        return cli.main(words)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
