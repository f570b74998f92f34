"""A picture from a public http or https address: looked up once, checked, and asked at exactly what was checked.

Nothing of this machine travels along: no proxy or netrc from its environment, no cookie, no key. What comes back is
counted while it arrives. A redirect is a new address, with all checks from the start.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ..errors import FetchFailed, ImageRefused, TooLarge
from .address import Address, check_listed, follow, is_public, parse

_MAX_REDIRECTS = 3
_AT_ONCE = 16  # each may hold the largest picture, which admission does not know of yet
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {hdrs.ACCEPT: "image/*", hdrs.ACCEPT_ENCODING: "identity", hdrs.USER_AGENT: "vision-server"}

Lookup = Callable[[str, int], Awaitable[list[str]]]


class Fetcher:
    """Fetches from `hosts` (entries of the setting `fetch_hosts`; none: refuses all) in at most `timeout_s`.

    `lookup` (name, port -> numeric addresses) and `is_allowed` (of a numeric address) are there for tests, which have
    no public server: no setting reaches them.
    """

    def __init__(
        self,
        hosts: Collection[str],
        timeout_s: float,
        max_bytes: int,
        lookup: Lookup | None = None,
        is_allowed: Callable[[str], bool] = is_public,
    ) -> None:
        self._hosts = frozenset(hosts)
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._lookup = lookup or _lookup
        self._is_allowed = is_allowed
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, text: str) -> bytes:
        """What the address holds, whatever type it declares.

        Raises ImageRefused (not allowed), FetchFailed (the other server's fault, its slowness too) and TooLarge.
        """
        if not self._hosts:
            raise ImageRefused("Pictures are not fetched from addresses here: send the picture itself, in base64.")
        try:
            return await asyncio.wait_for(self._follow(parse(text)), self._timeout_s)
        except asyncio.TimeoutError:
            raise FetchFailed(f"The picture could not be fetched within {self._timeout_s:g} s.") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise FetchFailed("The picture could not be fetched: the connection to its server failed.") from None

    async def _follow(self, address: Address) -> bytes:
        async with self._free:
            for _ in range(_MAX_REDIRECTS + 1):
                got = await self._ask(address)
                if isinstance(got, bytes):
                    return got
                address = got
        raise FetchFailed(f"The picture could not be fetched: more than {_MAX_REDIRECTS} redirects.")

    async def _ask(self, address: Address) -> bytes | Address:
        """The body, or where the answer redirects to."""
        check_listed(address, self._hosts)
        connector = aiohttp.TCPConnector(
            resolver=_Checked(await self._look_up(address)), use_dns_cache=False, force_close=True
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            ) as session,
            session.get(URL(address.url, encoded=True), headers=_HEADERS, allow_redirects=False) as response,
        ):
            if response.status in _REDIRECTS and (location := response.headers.get(hdrs.LOCATION)):
                return follow(address, location)
            if response.status != 200:
                raise FetchFailed(f"The picture could not be fetched: its server answered {response.status}.")
            if response.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
                raise FetchFailed("The picture could not be fetched: its server sends it compressed.")
            return await self._read(response)

    async def _look_up(self, address: Address) -> list[str]:
        """The numeric addresses of the host, all of them allowed. Raises ImageRefused, FetchFailed."""
        try:
            found = await self._lookup(address.host, address.port)
        except (OSError, UnicodeError):
            found = []
        if not found:
            raise FetchFailed("The picture could not be fetched: the name of its server is not known.")
        if not all(map(self._is_allowed, found)):  # one is enough: who answers for the name answers for all of them
            raise ImageRefused("Pictures are not fetched from this host: it is not on the public internet.")
        return found

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        too_large = (response.content_length or 0) > self._max_bytes
        while not too_large and (piece := await response.content.readany()):
            body += piece
            too_large = len(body) > self._max_bytes
        if too_large:
            raise TooLarge(f"The picture at the address is larger than {self._max_bytes / (1 << 20):g} MiB.")
        return bytes(body)


class _Checked(AbstractResolver):
    """Answers with what was looked up and checked before: nothing is looked up a second time."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=ip,
                port=port,
                family=socket.AF_INET6 if ":" in ip else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for ip in self._addresses
        ]

    async def close(self) -> None:
        pass


async def _lookup(host: str, port: int) -> list[str]:
    """As the system does it. A numeric host is its own answer; a zone (%eth0) stays in the text and is refused."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(where[4][0]) for where in found]
