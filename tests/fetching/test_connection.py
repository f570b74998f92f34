"""Fetching from a real server on this machine, which no setting would allow: the tests let its address pass."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from vision_server.errors import FetchFailed, ImageRefused, TooLarge, VisionError
from vision_server.fetching.address import is_public
from vision_server.fetching.connection import Fetcher

PUBLIC = "8.8.8.8"  # never connected to
PICTURE = b"GIF89a" + bytes(range(256)) * 40


class Site:
    """A web site on a free port of 127.0.0.1, and how often it was asked for anything."""

    def __init__(self) -> None:
        self.asked: list[web.BaseRequest] = []
        self.never = asyncio.Event()
        self.port = 0
        self.answers: dict[str, Callable[[], web.StreamResponse]] = {"/a.gif": lambda: web.Response(body=PICTURE)}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request)
        if request.path == "/slow":
            await self.never.wait()
        if request.path in ("/drip", "/endless"):
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(1000):
                await response.write(bytes(1024 if request.path == "/endless" else 1))
                if request.path == "/drip":
                    await asyncio.sleep(0.01)
            return response
        found = self.answers.get(request.path)
        return web.Response(status=404) if found is None else found()

    def redirects(self, path: str, location: str, status: int = 302) -> None:
        self.answers[path] = lambda: web.Response(status=status, headers={"Location": location})


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    async with RawTestServer(made.answer, host="127.0.0.1") as server:
        assert server.port is not None
        made.port = server.port
        yield made
        made.never.set()


class Names:
    """A resolver of names by table; each answer in a name's list counts once, the last for ever."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = answers
        self.looked_up: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        answers = self.answers.get(host.partition(".")[0])
        if answers is None:
            raise OSError("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def fetcher(site: Site, names: Names, *, local: bool = True, hosts: Any = None, **options: Any) -> Fetcher:
    """`local` lets 127.0.0.1 pass, as if it were public."""
    allowed = {f"{name}.example:{site.port}" for name in names.answers} if hosts is None else hosts
    values = {"timeout_s": 5.0, "max_bytes": 1 << 16, **options}
    check = (lambda ip: ip == "127.0.0.1" or is_public(ip)) if local else is_public
    return Fetcher(allowed, lookup=names, is_allowed=check, **values)


def here() -> Names:
    return Names(img=[["127.0.0.1"]])


async def test_a_picture_is_fetched_and_nothing_of_ours_goes_along(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine img.example login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    names = here()
    assert await fetcher(site, names).fetch(f"http://img.example:{site.port}/a.gif?size=1") == PICTURE
    [asked] = site.asked
    assert names.looked_up == ["img.example"]
    assert asked.rel_url.raw_path_qs == "/a.gif?size=1"
    assert dict(asked.headers) == {
        "Host": f"img.example:{site.port}",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "User-Agent": "vision-server",
        "Connection": "close",
    }


async def test_no_cookie_is_kept_between_redirects(site: Site) -> None:
    site.answers["/first"] = lambda: web.Response(status=302, headers={"Location": "/a.gif", "Set-Cookie": "a=b"})
    assert await fetcher(site, here()).fetch(f"http://img.example:{site.port}/first") == PICTURE
    assert "Cookie" not in site.asked[1].headers


@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["100.64.0.1"],
        ["2002:7f00:1::"],
        ["64:ff9b::7f00:1"],
        [PUBLIC, "127.0.0.1"],
        ["127.0.0.1", PUBLIC],
        [PUBLIC, PUBLIC, "::1"],
        ["fe80::1%lo"],
        ["nonsense"],
    ],
    ids=str,
)
async def test_a_name_with_one_address_that_is_not_public_is_refused(site: Site, answers: list[str]) -> None:
    with pytest.raises(ImageRefused):
        await fetcher(site, Names(img=[answers]), local=False).fetch(f"http://img.example:{site.port}/a.gif")
    assert site.asked == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0", "[::]"]
)
async def test_this_machine_is_refused_even_where_it_is_listed(site: Site, host: str) -> None:
    """With the system's own lookup: a listed host must be public all the same."""
    listed = {f"{host}:{site.port}", f"[::ffff:7f00:1]:{site.port}"}
    with pytest.raises(ImageRefused):
        await Fetcher(listed, 5.0, 1 << 16).fetch(f"http://{host}:{site.port}/a.gif")
    assert site.asked == []


async def test_a_name_is_looked_up_once_and_what_was_checked_is_what_is_connected_to(site: Site) -> None:
    """DNS rebinding: the first answer is good, the second would be this machine. There is no second look."""
    names = Names(img=[["127.0.0.1"], ["10.0.0.1"]])
    assert await fetcher(site, names).fetch(f"http://img.example:{site.port}/a.gif") == PICTURE
    assert names.looked_up == ["img.example"]


async def test_a_name_that_changes_its_address_is_checked_again_after_a_redirect(site: Site) -> None:
    site.redirects("/first", "/a.gif")
    names = Names(img=[["127.0.0.1"], ["10.0.0.1"]])
    with pytest.raises(ImageRefused):
        await fetcher(site, names).fetch(f"http://img.example:{site.port}/first")
    assert names.looked_up == ["img.example"] * 2
    assert [asked.path for asked in site.asked] == ["/first"]


@pytest.mark.parametrize(
    "location",
    [
        "http://inside.example:{port}/a.gif",  # listed, but not public
        "http://other.example:{port}/a.gif",  # not listed
        "http://127.0.0.1:{port}/a.gif",
        "http://2130706433:{port}/a.gif",
        "http://img.example@127.0.0.1:{port}/a.gif",
        "//127.0.0.1:{port}/a.gif",
        "http://img.example:{port}\\@127.0.0.1/a.gif",
        "file:///etc/passwd",
        "gopher://img.example:{port}/a.gif",
        "http://img.example:1/a.gif",
        "/a b.gif",
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_gets_all_checks_again(site: Site, location: str, status: int) -> None:
    site.redirects("/first", location.format(port=site.port), status)
    names = Names(img=[["127.0.0.1"]], inside=[["10.0.0.1"]], other=[["127.0.0.1"]])
    hosts = {f"img.example:{site.port}", f"inside.example:{site.port}"}
    with pytest.raises(ImageRefused):
        await fetcher(site, names, hosts=hosts).fetch(f"http://img.example:{site.port}/first")
    assert [asked.path for asked in site.asked] == ["/first"]


async def test_three_redirects_and_no_more(site: Site) -> None:
    for n in range(4):
        site.redirects(f"/{n}", f"/{n - 1}" if n else "/a.gif")
    assert await fetcher(site, here()).fetch(f"http://img.example:{site.port}/2") == PICTURE
    with pytest.raises(FetchFailed, match="3 redirects"):
        await fetcher(site, here()).fetch(f"http://img.example:{site.port}/3")
    site.redirects("/loop", "/loop")
    site.asked.clear()
    with pytest.raises(FetchFailed, match="3 redirects"):
        await fetcher(site, here()).fetch(f"http://img.example:{site.port}/loop")
    assert len(site.asked) == 4


@pytest.mark.parametrize("status", [201, 204, 206, 300, 304, 400, 401, 404, 418, 429, 500, 503])
async def test_only_200_counts(site: Site, status: int) -> None:
    site.answers["/a.gif"] = lambda: web.Response(status=status, body=None if status in (204, 304) else PICTURE)
    with pytest.raises(FetchFailed, match=str(status)) as failed:
        await fetcher(site, here()).fetch(f"http://img.example:{site.port}/a.gif")
    assert failed.value.status == 422


async def test_what_is_declared_too_large_is_not_read(site: Site) -> None:
    site.answers["/a.gif"] = lambda: web.Response(body=bytes((1 << 16) + 1))
    with pytest.raises(TooLarge):
        await fetcher(site, here()).fetch(f"http://img.example:{site.port}/a.gif")
    site.answers["/a.gif"] = lambda: web.Response(body=bytes(1 << 16))
    assert len(await fetcher(site, here()).fetch(f"http://img.example:{site.port}/a.gif")) == 1 << 16


async def test_what_says_nothing_of_its_size_is_counted(site: Site) -> None:
    with pytest.raises(TooLarge):
        await fetcher(site, here()).fetch(f"http://img.example:{site.port}/endless")


async def test_a_compressed_answer_is_not_inflated(site: Site) -> None:
    bomb = gzip.compress(bytes(1 << 24))
    site.answers["/a.gif"] = lambda: web.Response(body=bomb, headers={"Content-Encoding": "gzip"})
    with pytest.raises(FetchFailed, match="compressed"):
        await fetcher(site, here()).fetch(f"http://img.example:{site.port}/a.gif")


@pytest.mark.parametrize("path", ["/slow", "/drip"])
async def test_the_time_limit_is_for_all_of_it(site: Site, path: str) -> None:
    with pytest.raises(FetchFailed, match=r"0\.2 s"):
        await fetcher(site, here(), timeout_s=0.2).fetch(f"http://img.example:{site.port}{path}")


async def test_a_lookup_that_never_ends_counts_too() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(FetchFailed, match=r"0\.1 s"):
        await Fetcher({"img.example"}, 0.1, 1, lookup=never).fetch("http://img.example/")


async def test_so_many_at_once_and_no_more(site: Site) -> None:
    asking = fetcher(site, here(), timeout_s=0.5)
    slow = [asyncio.ensure_future(asking.fetch(f"http://img.example:{site.port}/slow")) for _ in range(20)]
    failed = await asyncio.gather(*slow, return_exceptions=True)
    assert all(isinstance(one, FetchFailed) for one in failed)
    assert len(site.asked) == 16
    assert await asking.fetch(f"http://img.example:{site.port}/a.gif") == PICTURE


async def test_without_a_list_nothing_is_looked_up() -> None:
    names = here()
    with pytest.raises(ImageRefused):
        await Fetcher((), 5.0, 1 << 16, lookup=names).fetch("http://img.example/")
    assert names.looked_up == []


@pytest.mark.parametrize("junk", [b"", b"junk\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nGIF",
                                  b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                                  b"HTTP/1.1 302 Found\r\nLocation: \r\n\r\n",
                                  b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"])  # fmt: skip
async def test_a_server_that_speaks_no_http_is_its_own_fault(junk: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(junk)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    site = Site()
    site.port = port
    async with server:
        with pytest.raises(FetchFailed) as failed:
            await fetcher(site, here()).fetch(f"http://img.example:{port}/a.gif")
    assert_tells_nothing(failed.value, port)


async def test_nobody_there_and_no_such_name(unused_tcp_port: int) -> None:
    site = Site()
    site.port = unused_tcp_port
    for url in (f"http://img.example:{site.port}/secret", f"http://nobody.example:{site.port}/secret"):
        with pytest.raises(FetchFailed) as failed:
            await fetcher(site, here(), hosts={f"img.example:{site.port}", f"nobody.example:{site.port}"}).fetch(url)
        assert_tells_nothing(failed.value, site.port)


def assert_tells_nothing(error: VisionError, port: int) -> None:
    assert error.status == 422
    for secret in ("127.0.0.1", "example", str(port), "Errno", "Cannot connect", "secret"):
        assert secret not in str(error)


@pytest.fixture(params=["img.example", "other.example"])
def certificate(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path]:
    """A name, a certificate for it that vouches for itself, and its key."""
    name, certificate, key = request.param, tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return name, certificate, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")
@pytest.mark.parametrize("trusted", [True, False])
async def test_a_certificate_must_be_trusted_and_be_the_names(
    certificate: tuple[str, Path, Path], trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the connection goes to an address: it is the name that is verified."""
    name, file, key = certificate
    if trusted:
        monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", ssl.create_default_context(cafile=str(file)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    site = Site()
    server = RawTestServer(site.answer, host="127.0.0.1", scheme="https")
    await server.start_server(ssl=context)
    site.port = server.port or 0
    try:
        asking = fetcher(site, here()).fetch(f"https://img.example:{site.port}/a.gif")
        if trusted and name == "img.example":
            assert await asking == PICTURE
        else:
            with pytest.raises(FetchFailed):
                await asking
            assert site.asked == []
    finally:
        await server.close()
