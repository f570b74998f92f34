"""Every verb at every kind of address, and bytes that are not HTTP: the right refusal, and the daemon stays."""

from __future__ import annotations

import random

import pytest

from tests.daemon_process import Daemon
from tests.fuzz.conftest import Start
from tests.fuzz.wire import Answer, assert_refused, request, send
from vision_server.api.surface import DOCUMENT

ROUTES = {  # every parameter's value is its name
    path.translate({ord("{"): None, ord("}"): None}): {method.upper() for method in methods}
    for path, methods in DOCUMENT["paths"].items()
}
# Those of the standards that the parser knows, and what it does not: lower case, invented, not even a word.
KNOWN = "GET HEAD POST PUT DELETE PATCH OPTIONS TRACE PROPFIND MKCOL MOVE LOCK REPORT M-SEARCH PURGE SUBSCRIBE".split()
UNKNOWN = ["get", "Post", "BREW", "GET2", "G@T", "G\0T", "\xe4", "", "A" * 9000, "GET\t"]
NOWHERE = [
    "/nowhere",
    "/status/",
    "//status",
    "/./status",
    "/nowhere/../status",
    "/%2e%2e/status",
    "/..%2fstatus",
    "/%2e%2e%5cstatus",
    "/status%00",
    "/%00",
    "/%ff%fe",
    "/%zz",
    "/%",
    "/status\\",
    "/status;x=1",
    "/STATUS",
    "/%0d%0aX-Forged:%201",
    "/" + "a" * 7000,
    "/" + "a/" * 3000,
    "//evil.example/status",
    "http://127.0.0.1/nowhere",
]
UNREADABLE: list[str | bytes] = [
    "",
    "*",
    "status",
    "?x",
    "127.0.0.1:80",
    "/\0",
    "/sta tus",
    b"/\xff\xfe",
    "/" + "a" * 9000,
    "http://",
    "http:///status",
    "http://[::1/status",
    "http://127.0.0.1:99999/status",
    "\x7f",
]
JUNK = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),  # somebody speaks TLS
    b"SSH-2.0-OpenSSH_9.9\r\n",
    b"\0" * 1000,
    b"\r\n\r\nnothing\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /status HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
    b"GET /status HTTP/1.1\r\n Host: 127.0.0.1\r\n\r\n",
    b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
    b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nX" + b"y" * 20_000 + b": 1\r\n\r\n",
    b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nX: \x00\x01\r\n\r\n",
    b"POST /unload HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /unload HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gibberish\r\n\r\nabc",
    b"\x80\x81" * 5000,
]


@pytest.fixture(scope="module")
def daemon(start: Start) -> Daemon:
    return start()


def assert_not_served(answer: Answer | None) -> None:
    """Closed without a word, or refused like any other request although there is none."""
    if answer is not None:
        assert_refused(answer, 400)


@pytest.mark.parametrize("method", KNOWN)
def test_a_verb_at_every_route(daemon: Daemon, method: str) -> None:
    for path, methods in ROUTES.items():
        answer = send(daemon, request(method, path))
        assert answer is not None
        if method in methods:
            assert answer.status in (200, 400, 404), (path, answer)  # there is no model of the name "id"
        elif method == "HEAD" and "GET" in methods:
            assert (answer.status in (200, 404), answer.body) == (True, b""), path
        elif method == "HEAD":
            assert (answer.status, answer.body) == (405, b""), path
        else:
            assert_refused(answer, 405, path=path)
            assert set(answer.headers["allow"].split(",")) == methods | ({"HEAD"} if "GET" in methods else set())


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "TRACE", "OPTIONS", "PROPFIND"])
def test_addresses_where_nothing_is(daemon: Daemon, method: str) -> None:
    for target in NOWHERE:
        answer = send(daemon, request(method, target))
        assert_refused(answer, 404)
        assert answer is not None
        assert "x-forged" not in answer.headers


@pytest.mark.parametrize("target", ["127.0.0.1:80", "evil.example:443", "/status", "*", "[::1]:1"])
def test_it_is_no_proxy(daemon: Daemon, target: str) -> None:
    answer = send(daemon, request("CONNECT", target))
    assert answer is not None
    assert answer.status in (400, 403, 404, 405)


@pytest.mark.parametrize("method", UNKNOWN, ids=lambda method: repr(method[:9]))
def test_verbs_that_are_none(daemon: Daemon, method: str) -> None:
    for path in ("/status", "/nowhere", "*", "http://127.0.0.1/status"):
        assert_not_served(send(daemon, request(method.encode("latin-1"), path)))


@pytest.mark.parametrize("target", UNREADABLE, ids=lambda target: repr(target[:9]))
def test_addresses_that_are_none(daemon: Daemon, target: str | bytes) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert_not_served(send(daemon, request(method, target)))


def test_the_absolute_form_and_an_encoded_address_are_the_address(daemon: Daemon) -> None:
    for target in ("http://127.0.0.1/status", "/%73tatus", "/status?x=%ff&%zz", "/status#part"):
        answer = send(daemon, request("GET", target))
        assert answer is not None
        assert answer.status == 200, target


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: repr(junk[:24]))
def test_what_is_not_http(daemon: Daemon, junk: bytes) -> None:
    assert_not_served(send(daemon, junk))


def test_noise(daemon: Daemon) -> None:
    """Random bytes, and sound requests with some bytes changed."""
    rng = random.Random(5)
    sound = request("POST", "/unload?force=1", b"", "Accept: text/plain", "X-Request-Id: abc")
    for number in range(150):
        data = bytearray(rng.randbytes(rng.randrange(1, 200)) + b"\r\n\r\n" if number % 3 == 0 else sound)
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data) - 4)] = rng.randrange(256)
        answer = send(daemon, bytes(data) + b"\r\n\r\n")
        assert answer is None or 200 <= answer.status < 500 or answer.status == 505, (bytes(data), answer)


def test_it_is_still_there(daemon: Daemon) -> None:
    """After all of the above, when the tests run in their order."""
    assert daemon.call("/health")[0] == 200
    assert daemon.caption("")[0] == 200
    assert daemon.process.poll() is None
