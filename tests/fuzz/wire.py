"""Bytes to a daemon and what comes back, without a client's help or manners. Not a test."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.daemon_process import Daemon

PATIENCE_S = 60.0  # an answer that takes longer is a hang, even on a busy machine


@dataclass(frozen=True)
class Answer:
    """`headers` by name in lower case; `body` is bytes as they came."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def send(daemon: Daemon, raw: bytes) -> Answer | None:
    """The answer to these bytes, None where the connection was closed without one."""
    address = urlsplit(daemon.url)
    assert address.hostname
    assert address.port
    received = b""
    with socket.create_connection((address.hostname, address.port), PATIENCE_S) as connection:
        try:
            connection.sendall(raw)
            while not _is_whole(received) and (data := connection.recv(1 << 16)):
                received += data
        except (ConnectionResetError, BrokenPipeError):
            pass
    return _parsed(received) if received else None


def _is_whole(received: bytes) -> bool:
    """Whether it is all of an answer. Of one to HEAD, which ends earlier than it says, the connection's end tells."""
    if b"\r\n\r\n" not in received:
        return False
    answer = _parsed(received)
    return len(answer.body) >= int(answer.headers.get("content-length", "0"))


def _parsed(received: bytes) -> Answer:
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split()[1]), headers, body)


def request(method: str | bytes, target: str | bytes, body: bytes | None = None, *headers: str) -> bytes:
    """The bytes of a request, whatever its method and its target are made of."""
    parts = [part if isinstance(part, bytes) else part.encode() for part in (method, target)]
    lines = ["Host: 127.0.0.1", "Connection: close", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    head = b" ".join([*parts, b"HTTP/1.1"]) + b"\r\n" + "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return head + (body or b"")


def assert_refused(answer: Answer | None, *statuses: int, path: str = "") -> None:
    """A 4xx (one of `statuses`) with the body and the headers of our errors, in the form of `path`, in our words."""
    assert answer is not None
    assert answer.status in statuses if statuses else 400 <= answer.status < 500, answer
    assert answer.headers["content-type"].startswith("application/json"), answer
    error = answer.json()
    if isinstance(error["error"], dict):  # OpenAI's form
        assert set(error) == {"error"}
        assert set(error["error"]) == {"message", "type", "param", "code"}
        message = error["error"]["message"]
    elif path.startswith(("/api/", "/v2")):  # Ollama's and KServe's
        assert set(error) == {"error"}
        message = error["error"]
    else:
        assert set(error) == {"error", "detail", "code", "request_id"}
        assert error["request_id"] == answer.headers["x-request-id"]
        message = error["error"]
        assert message == error["detail"]
    for mark in ("Traceback", "0x", "aiohttp", "Error:", "Errno", ".py", "/home", "/usr"):
        assert mark not in message, error
