"""Who is let in, decided from the headers alone: how much a request will take, and whose it is.

The handlers that do work stand inside `admitted` or `counted`; what is refused there has cost nothing yet.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aiohttp import hdrs, web

from ..jobs import Place
from .bodies import check_length, max_body_bytes
from .keys import PLACE, PROXIES, QUEUE, QUOTAS, SETTINGS, Network

_IPV6_CLIENT_BITS = 64  # what one subscriber has at the least


@contextmanager
def admitted(request: web.Request) -> Iterator[Place]:
    """While a request for the queue is here, from before its body is read until it is answered or its client left.

    A full queue refuses first, so that nobody pays of his rate for it. Raises TooLarge, QueueFull, CannotServe,
    TooManyRequests.
    """
    check_length(request)
    with request.app[QUEUE].admit(expected_bytes(request)) as place, counted(request):
        request[PLACE] = place
        yield place


@contextmanager
def counted(request: web.Request) -> Iterator[None]:
    """While a request counts as one of its client's. Raises TooManyRequests."""
    forwarded = ",".join(request.headers.getall(hdrs.X_FORWARDED_FOR, ()))
    client = client_of(request.remote or "", forwarded, request.app[PROXIES])
    with request.app[QUOTAS].hold(client, time.monotonic(), request.app[QUEUE].retry_after_s()):
        yield


def expected_bytes(request: web.Request) -> int:
    """How much the body will take: what it says, or the largest there is where that cannot be known beforehand."""
    if not request.body_exists:
        return 0
    if request.content_length is None or hdrs.CONTENT_ENCODING in request.headers:
        return max_body_bytes(request.app[SETTINGS])
    return request.content_length


def client_of(peer: str, forwarded: str, proxies: Sequence[Network]) -> str:
    """The client: the peer, or of X-Forwarded-For's addresses the last one that is no trusted proxy.

    Every proxy adds the address it was asked from at the end, and whatever stands before a stranger's may be invented.
    A proxy that hands on what is no address counts itself.
    """
    address = _address(peer)
    for text in reversed(forwarded.split(",")):
        further = _address(text)
        if address is None or further is None or not any(address in proxy for proxy in proxies):
            break
        address = further
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(address), _IPV6_CLIENT_BITS), strict=False))
    return str(address or peer)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """From 192.0.2.1, 2001:db8::1 or [2001:db8::1], with a port where that can be told; IPv4 in IPv6 is IPv4."""
    text = text.strip()
    host = text[1:].partition("]")[0] if text.startswith("[") else text
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address
