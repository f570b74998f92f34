"""Who may ask: Host, Origin and key, decided from the headers alone, before any body is read.

A server on loopback is within reach of every web page its user opens. The Host check defeats DNS rebinding
(CVE-2024-28224); the Origin and Sec-Fetch-Site checks defeat requests that a foreign page makes a browser send.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler

from ..errors import Forbidden, Unauthorized
from ..settings import Settings
from . import page
from .keys import SETTINGS

# Liveness probes come from load balancers that hold no key, and a browser has none before the page asks for it; these
# answers show no request, model or setting.
OPEN_PATHS = frozenset({"/health", "/ready", "/v2/health/live", "/v2/health/ready", "/openapi.json", *page.PATHS})

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:@/\[\]]+))(?::[0-9]{0,5})?")
_HEADERS = ("Authorization", "Content-Type", "X-API-Key", "X-Request-Id", "OpenAI-Organization", "OpenAI-Project")
_OF_THE_SDK = re.compile(r"x-stainless-[a-z0-9-]{1,40}")  # OpenAI's sends a dozen about itself, and more each year


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse strangers; answer the preflight of a listed origin."""
    settings = request.app[SETTINGS]
    if hdrs.HOST in request.headers or request.version >= HttpVersion11:  # HTTP/1.0 health checks send none
        check_host(request.headers.get(hdrs.HOST, ""), settings)
    if not request.raw_path.startswith(("/", "*")):  # a whole URL, as proxies are asked: it names a host, too
        check_host(request.url.raw_authority, settings)
    if request.path in OPEN_PATHS:
        return await handler(request)
    check_origin(request.headers, settings)
    preflight = request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    if preflight and cors_headers(request.headers, settings):
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST",
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _allowed_headers(request.headers),
            },
        )
    check_key(request.headers, settings)
    return await handler(request)


def check_host(host: str, settings: Settings) -> None:
    """On loopback the name must be a local or a listed one; elsewhere only where `allowed_hosts` lists any."""
    if not settings.loopback and not settings.allowed_hosts:
        return
    name = _name_of(host)
    if not (_is_local(name) or name in settings.allowed_hosts or name == settings.host.lower()):
        raise Forbidden("This server does not answer under this Host name. Its operator can add it to allowed_hosts.")


def check_origin(headers: Mapping[str, str], settings: Settings) -> None:
    """Refuse what a browser says comes from another site. Without the headers there is no browser to protect."""
    origin = headers.get(hdrs.ORIGIN)
    if origin is not None:
        authority = origin.lower().partition("://")[2]
        same = authority != "" and authority == headers.get(hdrs.HOST, "").lower()
        if same or origin.lower() in settings.allowed_origins:
            return
    elif headers.get("Sec-Fetch-Site", "").lower() != "cross-site":
        return
    raise Forbidden("Requests from other web sites are refused. The operator can add an origin to allowed_origins.")


def check_key(headers: Mapping[str, str], settings: Settings) -> None:
    """Compare the key, in constant time, where one is configured."""
    if settings.api_key is None:
        return
    scheme, _, token = headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    given = headers.get("X-API-Key") or (token.strip() if scheme.lower() == "bearer" else "")
    if not given:
        raise Unauthorized("This server wants a key: send `Authorization: Bearer <key>` or `X-API-Key: <key>`.")
    if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), settings.api_key.encode()):
        raise Unauthorized("The key is wrong.")


def has_key(request: web.Request) -> bool:
    """Whether an answer on an open path may show what the others show."""
    try:
        check_key(request.headers, request.app[SETTINGS])
    except Unauthorized:
        return False
    return True


def cors_headers(headers: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """What lets the pages of a listed origin read the answer; nothing for any other."""
    origin = headers.get(hdrs.ORIGIN, "")
    if origin.lower() not in settings.allowed_origins:
        return {}
    return {
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin,
        hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: "X-Request-Id, Server-Timing, Retry-After, X-Should-Retry",
        hdrs.VARY: "Origin",
    }


def _allowed_headers(headers: Mapping[str, str]) -> str:
    """What the pages of a listed origin may send: the usual, and of what they ask for what OpenAI's SDK adds."""
    asked = headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "").lower().split(",")
    return ", ".join([*_HEADERS, *(name for one in asked if _OF_THE_SDK.fullmatch(name := one.strip()))])


def _name_of(host: str) -> str:
    """The Host header without its port, lower case, IPv6 brackets removed; "" where it is none."""
    found = _HOST.fullmatch(host.lower())
    return (found[1] or found[2]) if found else ""


def _is_local(name: str) -> bool:
    name = name.removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
