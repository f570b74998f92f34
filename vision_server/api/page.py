"""The page, and that of /docs: files read once, when the daemon starts, and served under a strict security policy.

They show no request, model or setting, and so ask for no key; the calls the page makes do. Nothing but these files can
be reached here, since a name is looked up among them and never on the disk.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ETag, hdrs, web

from ..errors import NotFound
from .fields import Schema
from .openapi import STRING, InPath, Operation

HTML, CSS, JAVASCRIPT, SVG = "text/html", "text/css", "text/javascript", "image/svg+xml"
_TYPES = {".html": HTML, ".css": CSS, ".js": JAVASCRIPT, ".svg": SVG}
_FOLDER = Path(__file__).parents[1] / "page"
_INDEX, _DOCS, _ICON = "index.html", "docs.html", "favicon.svg"
_HEADERS = {
    # Nothing from outside, nothing inline; pictures come out of the visitor's own files.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    hdrs.CACHE_CONTROL: "no-cache",  # kept, but asked for again: the tag tells whether it is still the same
    hdrs.VARY: "Accept-Encoding",
}


@dataclass(frozen=True)
class _File:
    body: bytes
    packed: bytes  # by gzip, for browsers that say they take it
    kind: str
    tag: str


def _read(path: Path) -> _File:
    body = path.read_bytes()
    return _File(body, gzip.compress(body, mtime=0), _TYPES[path.suffix], hashlib.sha256(body).hexdigest()[:32])


_FILES = {path.name: _read(path) for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES}
PATHS = frozenset({"/", "/docs", "/favicon.ico", *(f"/page/{name}" for name in _FILES)})
"""Every address at which there is a file."""


async def index(request: web.Request) -> web.Response:
    """GET /"""
    return _serve(request, _FILES[_INDEX])


async def docs(request: web.Request) -> web.Response:
    """GET /docs: what /openapi.json says, for people."""
    return _serve(request, _FILES[_DOCS])


async def icon(request: web.Request) -> web.Response:
    """GET /favicon.ico, which browsers ask for unbidden wherever they show an answer."""
    return _serve(request, _FILES[_ICON])


async def file(request: web.Request) -> web.Response:
    """GET /page/{name}"""
    found = _FILES.get(request.match_info["name"])
    if found is None:
        raise NotFound("The page has no such file.")
    return _serve(request, found)


def _serve(request: web.Request, found: _File) -> web.Response:
    """The file, or 304 where the browser has it already."""
    known = {tag.value for tag in request.if_none_match or ()}
    if known & {found.tag, "*"}:
        response = web.Response(status=304, headers=_HEADERS)
    elif "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
        response = web.Response(body=found.packed, headers=_HEADERS, content_type=found.kind, charset="utf-8")
        response.headers[hdrs.CONTENT_ENCODING] = "gzip"
    else:
        response = web.Response(body=found.body, headers=_HEADERS, content_type=found.kind, charset="utf-8")
    response.etag = ETag(found.tag, is_weak=True)  # the same content, packed or not
    return response


_TAG = "page"
SCHEMAS: dict[str, Schema] = {}
OPERATIONS = (
    Operation("GET", "/", _TAG, "The page, for browsers.", {HTML: STRING}, is_open=True),
    Operation(
        "GET", "/docs", _TAG, "Every call, as /openapi.json describes it, for browsers.", {HTML: STRING}, is_open=True
    ),
    Operation("GET", "/favicon.ico", _TAG, "Its icon.", {SVG: STRING}, is_open=True),
    Operation(
        "GET",
        "/page/{name}",
        _TAG,
        "A file that the page needs.",
        {CSS: STRING, JAVASCRIPT: STRING, SVG: STRING},
        raises=(NotFound,),
        is_open=True,
        path_parameters={"name": InPath("The file's name, as the page links to it.", "app.js")},
    ),
)
