"""An HTTP server that is none of ours, for tests of those who ask one: the fixture `peer`. Not a test."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Answer = tuple[int, dict[str, str], bytes]


class Peer(http.server.ThreadingHTTPServer):
    """Answers `answers[path]`; keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Answer] = {}
        self.heard: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Peer

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.heard.append((self.command, self.path, dict(self.headers), body))
        status, headers, answered = self.server.answers[self.path]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(answered)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answered)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def listening() -> Iterator[Peer]:
    with Peer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def good(value: object) -> Answer:
    return 200, {}, json.dumps(value).encode()
