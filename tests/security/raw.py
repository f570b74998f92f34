"""Requests written by hand, for what no client library would send. Not a test."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from tests.daemon_process import Daemon

WAIT_S = 60.0


def connect(daemon: Daemon) -> socket.socket:
    parts = urlsplit(daemon.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=WAIT_S)


def head(method: str = "POST", path: str = "/process_image", /, **headers: str | int) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def send(daemon: Daemon, *pieces: bytes | Iterable[bytes]) -> bytes:
    """What comes back until the server closes, or one whole answer has come; b"" where it just closes."""
    with connect(daemon) as connection:
        try:
            for piece in pieces:
                for one in [piece] if isinstance(piece, bytes) else piece:
                    connection.sendall(one)
        except OSError:
            pass  # refused before all was sent; the answer is there
        return answer(connection)


def answer(connection: socket.socket) -> bytes:
    got = b""
    try:
        while piece := connection.recv(1 << 16):
            got += piece
            head, found, body = got.partition(b"\r\n\r\n")
            lengths = [
                line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            ]
            if found and lengths and len(body) >= int(lengths[0]):
                break
    except ConnectionError:
        pass
    return got


def status(got: bytes) -> int:
    return int(got.split(None, 2)[1]) if got else 0
