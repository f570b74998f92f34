"""The pack's HTTP: whose key goes where, what is asked again, what is said of faults, how it is ended."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

QUEUE_FULL = (429, {"Retry-After": "7"}, {"error": "The queue is full.", "code": "queue_full"})
LEAVES = (503, {"Retry-After": "5"}, {"error": "It leaves.", "code": "unavailable"})
LOAD_FAILED = (503, {"Retry-After": "5"}, {"error": "No memory.", "code": "load_failed"})


@pytest.fixture
def server(part: Callable[[str], Any]) -> Any:
    return part("server")


@contextlib.contextmanager
def silent() -> Iterator[socket.socket]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        yield listening


def test_the_key_of_the_environment_goes_to_its_server_only(
    server: Any, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []

    def reply(path: str, headers: dict[str, str], _: Any) -> tuple[int, dict[str, str], Any]:
        said.append(headers.get("Authorization"))
        return 200, {}, {}

    usual, other = stub(reply).url, stub(reply).url
    monkeypatch.setenv("VISION_HOST", usual.removeprefix("http://") + "/")
    monkeypatch.setenv("VISION_API_KEY", "secret")
    for address, key in (("", ""), (usual, ""), (other, ""), (other, "theirs"), ("", "mine")):
        server.Server(address, key).call("/status")
    assert said == ["Bearer secret", "Bearer secret", None, "Bearer theirs", "Bearer mine"]


def test_nothing_is_followed_elsewhere(server: Any, stub: Any) -> None:
    visited = []

    def elsewhere(path: str, *_: Any) -> tuple[int, dict[str, str], Any]:
        visited.append(path)
        return 200, {}, {}

    there = stub(elsewhere).url
    here = stub(lambda *_: (302, {"Location": f"{there}/status"}, {}))
    with pytest.raises(server.VisionServerError, match="status 302; is it a vision-server"):
        server.Server(here.url, "secret").call("/status")
    assert visited == []


@pytest.mark.parametrize("passing", [QUEUE_FULL, LEAVES], ids=["full", "leaves"])
def test_who_has_no_place_is_asked_again_when_it_says(
    server: Any, stub: Any, passing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = [passing, passing, (200, {}, {"result": "a cat"})]
    asked = server.Server(stub(lambda *_: replies.pop(0)).url)
    waits: list[float] = []
    monkeypatch.setattr(asked._stopped, "wait", lambda seconds: waits.append(seconds))
    assert asked.call_patiently("/process_image", {}) == {"result": "a cat"}
    assert waits == [float(passing[1]["Retry-After"])] * 2


def test_patience_ends(server: Any, stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    asked = server.Server(stub(lambda *_: QUEUE_FULL).url)
    monkeypatch.setattr(server.time, "monotonic", lambda: now_s[0])

    def wait(seconds: float) -> None:
        now_s[0] += seconds

    monkeypatch.setattr(asked._stopped, "wait", wait)
    with pytest.raises(server.Refused, match="status 429"):
        asked.call_patiently("/process_image", {})
    assert server.PATIENCE_S - 7 < now_s[0] <= server.PATIENCE_S


def test_a_load_that_failed_is_told_at_once(server: Any, stub: Any) -> None:
    replies = [LOAD_FAILED]
    with pytest.raises(server.Refused, match=r"refuses \(status 503\): No memory\."):
        server.Server(stub(lambda *_: replies.pop(0)).url).call_patiently("/process_image", {})
    assert replies == []


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((401, {}, {"error": "A key is needed."}), "A key is needed.*VISION_API_KEY"),
        ((400, {}, {"error": "This prompt\n is not known."}), "This prompt is not known"),
        ((500, {}, b"<html>"), "status 500; is it a vision-server"),
        ((200, {}, b"<html>"), "no vision-server"),
    ],
)
def test_faults_are_told_in_words(server: Any, stub: Any, reply: Any, said: str) -> None:
    with pytest.raises(server.VisionServerError, match=said):
        server.Server(stub(lambda *_: reply).url).call("/status")


def test_nobody_there_and_words_that_are_no_address(server: Any) -> None:
    with silent() as listening:
        port = listening.getsockname()[1]
    with pytest.raises(server.VisionServerError, match=f"no vision-server at http://127.0.0.1:{port}. Start one"):
        server.Server(f"127.0.0.1:{port}").call("/status")
    for address in ("ftp://there", "http://", "host:port", "http://h\u00f6st"):
        with pytest.raises(server.VisionServerError, match=r"address"):
            server.Server(address)
    with pytest.raises(server.VisionServerError, match="cannot be sent"):
        server.Server("", "ke\ny")


def test_who_does_not_answer_in_time(server: Any) -> None:
    with silent() as listening, pytest.raises(server.VisionServerError, match="does not answer"):
        server.Server(f"127.0.0.1:{listening.getsockname()[1]}", answer_timeout_s=0.05).call("/status")


def test_stop_ends_the_connection_and_all_that_come(server: Any) -> None:
    raised: list[BaseException] = []

    def call() -> None:
        try:
            asked.call("/status")
        except BaseException as error:
            raised.append(error)

    with silent() as listening:
        asked = server.Server(f"127.0.0.1:{listening.getsockname()[1]}")
        thread = threading.Thread(target=call)
        thread.start()
        connected, _ = listening.accept()
        with connected:
            connected.settimeout(60)
            assert connected.recv(1 << 16).startswith(b"GET /status")
            asked.stop()
            assert connected.recv(1) == b""
        thread.join(60)
        call()
    assert [type(error) for error in raised] == [server.Stopped] * 2


def test_stop_ends_a_wait_for_a_place(server: Any, stub: Any) -> None:
    asked = server.Server(stub(lambda *_: QUEUE_FULL).url)
    timer = threading.Timer(0.05, asked.stop)
    timer.start()
    with pytest.raises(server.Stopped):
        asked.call_patiently("/process_image", {})
