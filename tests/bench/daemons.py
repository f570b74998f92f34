"""A daemon in a process of its own for the benchmarks that come by HTTP, and the pictures and times of requests to it.
Not a benchmark."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from tests.daemon_process import ENVIRONMENT, Daemon

ROOT = Path(__file__).parents[2]
# As on a user's machine, Python keeps what it has compiled of an editable install; that of others lies there already.
_ENVIRONMENT = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONDONTWRITEBYTECODE"}
TIMEOUT_S = 900.0  # a busy machine takes long for many captions


class Server(Protocol):
    """Whatever answers by HTTP at `url`."""

    url: str


@contextlib.contextmanager
def running(*words: str, module: str = "vision_server") -> Iterator[Daemon]:
    """`python -m module` on a free port; killed at the end."""
    command = [sys.executable, "-m", module, "--port", "0", *words]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=_ENVIRONMENT)
    try:
        daemon = Daemon(process)
        # a pipe that nobody reads would fill, and stop the daemon
        threading.Thread(target=process.communicate, daemon=True).start()
        yield daemon
    finally:
        process.kill()
        process.wait()


def end_orderly() -> None:
    """For a script: SIGTERM ends it as an exception does, so that nothing it has started stays behind."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def timed(server: Server, path: str, body: bytes | None = None) -> tuple[float, Any]:
    """Seconds from opening a connection to the end of the answer, and the answer. Raises AssertionError unless 200."""
    address = urlsplit(server.url)
    assert address.hostname is not None
    began_s = time.perf_counter()
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        said = response.read()
    seconds = time.perf_counter() - began_s
    assert response.status == 200, said
    return seconds, json.loads(said)


def asked_at_once(server: Server, path: str, bodies: Sequence[bytes]) -> tuple[float, list[Any]]:
    """Seconds from the first request to the last answer, each on a connection of its own, and the answers in order.
    Raises AssertionError unless all are 200."""
    with ThreadPoolExecutor(len(bodies)) as pool:
        began_s = time.perf_counter()
        answers = [answer for _, answer in pool.map(lambda body: timed(server, path, body), bodies)]
        return time.perf_counter() - began_s, answers


def jpeg(number: int, least_bytes: int = 1) -> bytes:
    """A JPEG of noise, another one for each number; its side grows until it has `least_bytes`."""
    side = max(64, int((least_bytes * 0.6) ** 0.5))
    while True:
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        encoded = as_jpeg(Image.fromarray(pixels))
        if len(encoded) >= least_bytes:
            return encoded
        side += 8


def as_jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()
