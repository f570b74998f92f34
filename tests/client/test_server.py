"""Calls to servers that are no vision-server, that break off, or that are not there; keys and where they go."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.peer import Answer, Peer, good
from vision_server.client.server import ClientError, Prompt, Server, Unreachable


def test_what_is_sent(peer: Peer) -> None:
    peer.answers["/process_image"] = good({"result": "a car"})
    assert Server(peer.url + "/", "s3cret").caption(b"\x00\xff", "OD", "text é", [1, 2, 3, 4]) == "a car"
    method, _, headers, body = peer.heard[0]
    assert (method, headers["Authorization"]) == ("POST", "Bearer s3cret")
    assert json.loads(body) == {"image": "AP8=", "prompt": "OD", "text_input": "text é", "region": [1, 2, 3, 4]}
    peer.answers["/model"] = good("demo")
    assert Server(peer.url).call("/model") == "demo"
    assert (peer.heard[1][0], "Authorization" in peer.heard[1][2]) == ("GET", False)


def test_the_prompts_and_which_are_advised(peer: Peer) -> None:
    rows = [{"token": f"<{n}>", "input": "none", "explanation": n, "sentence": "", "answer": "text"} for n in "AB"]
    peer.answers.update({"/prompts": good(["<A>"]), "/prompts?all=1": good(rows)})
    assert Server(peer.url).prompts() == [Prompt("<A>", "none", "A", True), Prompt("<B>", "none", "B", False)]


def test_a_proxy_is_not_asked_for_this_machine(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    peer.answers["/model"] = good("demo")
    assert Server(peer.url).call("/model") == "demo"


def test_a_proxy_is_asked_for_others(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", peer.url)
    monkeypatch.delenv("no_proxy", raising=False)
    peer.answers["http://pictures.example/model"] = good("far")
    assert Server("pictures.example").call("/model") == "far"


def test_a_key_follows_no_redirection(peer: Peer) -> None:
    peer.answers.update({"/model": (302, {"Location": peer.url + "/elsewhere"}, b""), "/elsewhere": good("other")})
    with pytest.raises(ClientError, match="answers with status 302; is it a vision-server"):
        Server(peer.url, "s3cret").call("/model")
    assert [path for _, path, _, _ in peer.heard] == ["/model"]


FOREIGN = "is no vision-server"


@pytest.mark.parametrize(
    ("answered", "said"),
    [
        ((400, {}, b'{"error": "It is\\nwrong."}'), "the server answered 400: It is wrong."),
        ((429, {}, json.dumps({"error": "x" * 999}).encode()), "the server answered 429: " + "x" * 300),
        ((500, {}, b"<html>"), "answers with status 500; is it a vision-server?"),
        ((500, {}, b"[]"), "answers with status 500; is it a vision-server?"),
        ((500, {"Content-Length": "99"}, b"{"), "answers with status 500; is it a vision-server?"),
        ((200, {}, b"<html>"), FOREIGN),
        ((200, {}, b"\xff\xff"), FOREIGN),
        ((200, {}, b"[]"), FOREIGN),
        ((200, {}, b'{"result": 7}'), FOREIGN),
        ((200, {}, b'{"answer": "x"}'), FOREIGN),
        ((200, {"Content-Length": "99"}, b'{"result"'), "ended the connection without a whole answer."),
    ],
)
def test_what_is_no_answer_is_told_in_one_line(peer: Peer, answered: Answer, said: str) -> None:
    peer.answers["/process_image"] = answered
    with pytest.raises(ClientError) as caught:
        Server(peer.url).caption(b"", "OD")
    assert str(caught.value).endswith(said) or said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("rows", [[], {}, [{"token": "<A>"}], [7], "AB"])
def test_prompts_of_something_else(peer: Peer, rows: object) -> None:
    peer.answers.update({"/prompts": good([]), "/prompts?all=1": good(rows)})
    with pytest.raises(ClientError, match=FOREIGN):
        Server(peer.url).prompts()


@contextlib.contextmanager
def raw_server(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Accepts one connection and does that with it."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            behave(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_a_server_that_hangs_up() -> None:
    with raw_server(lambda connection: None) as url, pytest.raises(ClientError, match="without a whole answer"):
        Server(url).call("/model")


def test_a_server_that_speaks_something_else() -> None:
    with raw_server(lambda connection: connection.sendall(b"220 mail\r\n")) as url:
        with pytest.raises(ClientError, match=FOREIGN):
            Server(url).call("/model")


def test_a_slow_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit is for connecting: this answer comes only after it."""
    monkeypatch.setattr("vision_server.client.server._CONNECT_TIMEOUT_S", 0.05)

    def late(connection: socket.socket) -> None:
        connection.recv(1)
        connection.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while connection.recv(4096):
                pass
        connection.sendall(b'HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\n"demo"')

    with raw_server(late) as url:
        assert Server(url).call("/model") == "demo"


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Unreachable, match=rf"^nothing listens at {url}\.$"):
        Server(url).call("/model")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (socket.gaierror(-2, "x"), "the name is not known"),
        (TimeoutError(), "timed out"),
        (OSError(101, "x"), "cannot reach http://pictures.example"),
    ],
)
def test_why_a_server_cannot_be_reached(reason: OSError, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise reason

    monkeypatch.setattr(socket, "create_connection", fail)
    monkeypatch.delenv("http_proxy", raising=False)
    with pytest.raises(Unreachable, match=said):
        Server("pictures.example").call("/model")


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:54880", "http://127.0.0.1:54880"),
        ("http://127.0.0.1:54880///", "http://127.0.0.1:54880"),
        (" HTTPS://captions.example/behind/ ", "HTTPS://captions.example/behind"),
        ("[::1]:80", "http://[::1]:80"),
    ],
)
def test_an_address(address: str, url: str) -> None:
    assert Server(address).url == url


@pytest.mark.parametrize(
    "address", ["", "http://", "ftp://x", "http://x:port", "http://x:99999", "a\nb", "ü.example", "http://[x"]
)
def test_no_address(address: str) -> None:
    with pytest.raises(ClientError, match=r"is no address of a server|cannot be sent") as caught:
        Server(address)
    assert "\n" not in str(caught.value)


def test_a_key_that_cannot_be_sent_is_not_shown() -> None:
    with pytest.raises(ClientError, match="cannot be sent") as caught:
        Server("127.0.0.1", "s3cret\r\nX: y")
    assert "s3cret" not in str(caught.value)
