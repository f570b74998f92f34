"""A hub on loopback that speaks what huggingface_hub asks of one, and misbehaves when told to.

Real HTTP: what a repository is, and HEAD and GET of its files with ETag, X-Repo-Commit and Range; large files by a
redirect to another origin, as the hub's own come from a CDN. No accounts, no xet, no uploads.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

_FILE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
_INFO = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)(/revision/(?P<revision>.+))?")
_PIECE_BYTES = 4096
_TRICKLE_S = 0.1
_HOLD_S = 60.0  # bound of a stall, should the client not hang up before


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    range: str | None
    token: str | None
    agent: str


@dataclass
class Misbehaviour:
    """What to do to the GETs of one file. Offsets count from the start of the file."""

    cut_at: list[int] = field(default_factory=list)  # one GET each
    stall_at: int | None = None
    trickle_from: int | None = None  # ten pieces a second, until go_on is set
    go_on: threading.Event = field(default_factory=threading.Event)
    gap_s: float = 0.0  # between pieces
    pieces: int = 0  # how many, 0 as many as it takes
    corrupt: bool = False
    surplus: bytes = b""
    ignore_range: bool = False


class Repository:
    """Commits by revision; a revision points to one commit, newest last."""

    def __init__(self, files: dict[str, bytes], large: tuple[str, ...] = (".safetensors", ".bin")) -> None:
        self.large = large
        self.commits: dict[str, dict[str, bytes]] = {}
        self.revisions: dict[str, str] = {}
        self.push("main", files)

    def push(self, revision: str, files: dict[str, bytes]) -> str:
        commit = hashlib.sha1(json.dumps([revision, sorted(files), len(self.commits)]).encode()).hexdigest()
        self.commits[commit] = files
        self.revisions[revision] = commit
        return commit

    def etag(self, name: str, content: bytes) -> str:
        if name.endswith(self.large):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """The state of the server; tests set it and read `seen`. `refuse` answers every path that holds a text with it."""

    def __init__(self) -> None:
        self.url = self.cdn_url = ""
        self.repositories: dict[str, Repository] = {}
        self.misbehaviour: dict[str, Misbehaviour] = {}
        self.refuse: dict[str, tuple[int, dict[str, str]]] = {}
        self.seen: list[Seen] = []
        self.closing = threading.Event()

    def gets(self, name: str) -> list[Seen]:
        """The requests for bytes of the file `name`, at the origin that has them."""
        content = [one for one in self.seen if one.method == "GET" and one.path.endswith(f"/{name}")]
        return [one for one in content if one.path.startswith("/cdn/")] or content

    def names(self) -> set[str]:
        """The files whose bytes were asked for."""
        return {one.path.rpartition("/")[2] for one in self.seen if one.method == "GET" and "/api/" not in one.path}


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub and its CDN, each on a free port of 127.0.0.1."""
    hub = Hub()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) for _ in range(2)]
    hub.url, hub.cdn_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join(10)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        hub, agent = self.hub, self.headers["User-Agent"] or ""
        hub.seen.append(Seen(self.command, path, self.headers["Range"], self.headers["Authorization"], agent))
        for text, (status, headers) in hub.refuse.items():
            if text in path:
                return self._reply(status, b"{}", headers)
        if found := _FILE.fullmatch(path.removeprefix("/cdn")):
            return self._file(path, found)
        if found := _INFO.fullmatch(path):
            return self._info(found)
        return self._reply(404, b"{}", {})

    def _info(self, found: re.Match[str]) -> None:
        repository = self.hub.repositories.get(found["repository"])
        if repository is None:  # as the hub does, to tell nobody what private repositories there are
            return self._reply(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        revision = found["revision"] or "main"
        commit = repository.revisions.get(revision, revision)
        if commit not in repository.commits:
            return self._reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": name} for name in repository.commits[commit]]
        body = {"id": found["repository"], "modelId": found["repository"], "sha": commit, "siblings": siblings}
        return self._reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, path: str, found: re.Match[str]) -> None:
        repository, name = self.hub.repositories[found["repository"]], found["name"]
        commit = repository.revisions.get(found["revision"], found["revision"])
        content = repository.commits[commit].get(name)
        if content is None:
            return self._reply(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{repository.etag(name, content)}"', "X-Repo-Commit": commit}
        if name.endswith(repository.large) and not path.startswith("/cdn/"):
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
            return self._reply(302, b"", headers | {"Location": f"{self.hub.cdn_url}/cdn{path}"})
        if self.command == "HEAD":
            return self._reply(200, content, headers)
        return self._content(content, headers, self.hub.misbehaviour.get(name, Misbehaviour()))

    def _content(self, content: bytes, headers: dict[str, str], how: Misbehaviour) -> None:
        start, status = 0, 200
        if (asked := self.headers["Range"]) and not how.ignore_range:
            start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if how.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        content += how.surplus
        end = how.cut_at.pop(0) if how.cut_at else len(content)
        piece_bytes = -(-len(content) // how.pieces) if how.pieces else _PIECE_BYTES
        self._head(status, len(content) - start, headers)
        at = start
        while at < end:
            if how.stall_at is not None and at >= how.stall_at:
                self.hub.closing.wait(_HOLD_S)
                break
            if how.trickle_from is not None and at >= how.trickle_from:
                how.go_on.wait(_TRICKLE_S)
            to = min(at + piece_bytes, end, how.stall_at if how.stall_at is not None else end)
            try:
                self.wfile.write(content[at:to])
            except OSError:  # the client had enough
                break
            at = to
            if how.gap_s and at < end:
                self.hub.closing.wait(how.gap_s)
        if at < len(content):
            self.close_connection = True

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(length)}).items():
            self.send_header(name, value)
        self.end_headers()
