"""Bodies that wait to be asked for, over a real connection: nothing is asked of who is refused by the headers."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.daemon_process import GIF, Daemon
from tests.security.conftest import without_model

KEY = "secret"
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with without_model(tmp_path_factory.mktemp("wire"), "--api-key", KEY) as daemon:
        yield daemon


def talk(daemon: Daemon, *headers: str, body: bytes = GIF) -> list[bytes]:
    """Send a head, and the body once it is asked for; the heads of what came, and the body of the last."""
    address = urlsplit(daemon.url)
    lines = ["POST /process_image?prompt=FAKE HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *headers]
    heads: list[bytes] = []
    with socket.create_connection((str(address.hostname), address.port or 0), PATIENCE_S) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        stream = connection.makefile("rb")
        while True:
            head = b"".join(iter(stream.readline, b"\r\n"))
            heads.append(head)
            if b" 100 " not in head:
                length = next(line for line in head.splitlines() if line.lower().startswith(b"content-length"))
                return [*heads, stream.read(int(length.split(b":")[1]))]
            connection.sendall(body)


def test_who_is_let_in_is_asked_for_the_body_once(daemon: Daemon) -> None:
    invitation, answer, body = talk(daemon, "Expect: 100-Continue", f"X-API-Key: {KEY}")
    assert invitation.startswith(b"HTTP/1.1 100 Continue")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"X-Request-Id" in answer
    assert "result" in json.loads(body)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        (["X-API-Key: wrong"], b"401", "unauthorized"),
        ([f"X-API-Key: {KEY}", "Origin: http://evil.example"], b"403", "forbidden"),
    ],
)
def test_who_is_refused_is_not_asked(daemon: Daemon, headers: list[str], status: bytes, code: str) -> None:
    answer, body = talk(daemon, "Expect: 100-continue", *headers)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert json.loads(body)["code"] == code


def test_a_body_that_would_be_too_large_is_not_asked_for(daemon: Daemon) -> None:
    answer, body = talk(daemon, "Expect: 100-continue", f"X-API-Key: {KEY}", body=bytes(64 << 20))
    assert answer.startswith(b"HTTP/1.1 413")
    assert json.loads(body)["code"] == "too_large"


def test_other_expectations_are_ignored(daemon: Daemon) -> None:
    address = urlsplit(daemon.url)
    head = "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: the-unexpected\r\nConnection: close\r\n\r\n"
    with socket.create_connection((str(address.hostname), address.port or 0), PATIENCE_S) as connection:
        connection.sendall(head.encode())
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 200")
