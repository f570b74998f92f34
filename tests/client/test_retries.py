"""Which calls are made again, after what pauses, and when it is given up: decided, and done against a real server."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.peer import Answer, Peer, good
from vision_server.client.retries import MAX_PAUSE_S, MIN_PAUSE_S, MOST_BREAKS, Retries
from vision_server.client.server import Broken, Refused, Server, Unreachable


def refused(status: int, retry_after: str | None = None, said: bool = True) -> Answer:
    body = json.dumps({"error": "Not now."}).encode() if said else b"<html>"
    return status, {} if retry_after is None else {"Retry-After": retry_after}, body


@pytest.fixture
def pauses() -> list[float]:
    return []


class InTurn(dict[str, Answer]):
    """Each call gets the next of these answers."""

    def __init__(self, *answers: Answer) -> None:
        self.left = list(answers)

    def __getitem__(self, path: str) -> Answer:
        return self.left.pop(0)


def asked(peer: Peer, pauses: list[float], *answers: Answer, retry_for_s: float = 300.0) -> object:
    peer.answers = InTurn(*answers)
    return Server(peer.url, retry_for_s=retry_for_s, sleep=pauses.append).call("/process_image", {"prompt": "OD"})


@pytest.mark.parametrize("status", [429, 503])
def test_who_is_told_to_come_back_does(peer: Peer, pauses: list[float], status: int) -> None:
    assert asked(peer, pauses, refused(status, "7"), refused(status, "1"), good({"result": "x"})) == {"result": "x"}
    assert 7 <= pauses[0] <= 7 * 1.25
    assert 1 <= pauses[1] <= 1.25
    bodies = [body for _, _, _, body in peer.heard]
    assert len(bodies) == 3
    assert len(set(bodies)) == 1


@pytest.mark.parametrize("status", [502, 503, 504])
def test_what_a_proxy_says_of_its_server_is_retried(peer: Peer, pauses: list[float], status: int) -> None:
    assert asked(peer, pauses, refused(status, said=False), good("x")) == "x"
    assert MIN_PAUSE_S <= pauses[0] <= MIN_PAUSE_S * 1.25


@pytest.mark.parametrize("status", [400, 401, 404, 413, 415, 500, 504])
def test_what_a_retry_cannot_mend_is_not_retried(peer: Peer, pauses: list[float], status: int) -> None:
    with pytest.raises(Refused, match="Not now"):
        asked(peer, pauses, refused(status, "1"))
    assert pauses == []


def test_without_patience_the_first_refusal_counts(peer: Peer, pauses: list[float]) -> None:
    with pytest.raises(Refused):
        asked(peer, pauses, refused(429, "1"), retry_for_s=0)
    assert pauses == []


def test_it_is_given_up_before_a_pause_that_is_too_long(peer: Peer, pauses: list[float]) -> None:
    with pytest.raises(Refused) as caught:
        asked(peer, pauses, refused(429, "6"), refused(429, "6"), retry_for_s=10)
    assert len(pauses) == 1
    assert caught.value.retry_after_s == 6


def test_an_answer_that_breaks_off_is_asked_for_again(peer: Peer, pauses: list[float]) -> None:
    whole = json.dumps({"result": "a car"}).encode()
    cut: Answer = (200, {"Content-Length": str(len(whole) + 1)}, whole[:-3])
    assert asked(peer, pauses, cut, cut, good({"result": "a car"})) == {"result": "a car"}
    assert len(pauses) == 2


@contextmanager
def hangs_up() -> Iterator[tuple[str, list[int]]]:
    """A server that takes every connection and ends it; its address, and a list that grows by each."""
    seen: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    if connection.recv(1) == b"":
                        return
                    seen.append(1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
        finally:
            socket.create_connection(listener.getsockname()).close()
            thread.join()


def test_a_request_that_breaks_every_connection_is_not_sent_for_ever(pauses: list[float]) -> None:
    with hangs_up() as (url, seen), pytest.raises(Broken):
        Server(url, retry_for_s=1e6, sleep=pauses.append).call("/model")
    assert len(seen) == MOST_BREAKS + 1


def test_who_was_never_there_is_not_waited_for(pauses: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Unreachable):
        Server(url, retry_for_s=60, sleep=pauses.append).call("/model")
    assert pauses == []


def test_who_has_answered_and_is_gone_is_waited_for(pauses: list[float]) -> None:
    """As a server that is restarted."""
    with Peer() as first:
        first.answers["/model"] = good("demo")
        server = Server(first.url, retry_for_s=60, sleep=pauses.append)
        thread = threading.Thread(target=first.handle_request)
        thread.start()
        assert server.call("/model") == "demo"
        thread.join()
    with pytest.raises(Unreachable):
        server.call("/model")
    assert len(pauses) >= 3
    assert sum(pauses) <= 60


@pytest.mark.parametrize("header", ["nan", "inf", "soon", "Sun, 22 Nov 2026 00:00:00 GMT"])
def test_a_retry_after_of_another_kind_is_like_none(peer: Peer, pauses: list[float], header: str) -> None:
    assert asked(peer, pauses, refused(429, header), good("x")) == "x"
    assert pauses[0] <= MIN_PAUSE_S * 1.25


def test_pauses_grow_and_have_a_limit() -> None:
    retries = Retries(1e9)
    found = [retries.pause_s(None) or 0.0 for _ in range(12)]
    assert all(later > earlier for earlier, later in itertools.pairwise(found[:8]))
    assert MAX_PAUSE_S <= found[-1] <= MAX_PAUSE_S * 1.25
    assert MAX_PAUSE_S <= (retries.pause_s(1e6) or 0) <= MAX_PAUSE_S * 1.25
    assert MIN_PAUSE_S <= (retries.pause_s(-3) or 0) <= MIN_PAUSE_S * 1.25


def test_those_who_were_refused_together_do_not_come_back_together() -> None:
    assert len({Retries(100).pause_s(8) for _ in range(32)}) > 16


def test_a_pause_is_not_longer_than_what_is_left() -> None:
    for _ in range(50):
        assert (Retries(8.5).pause_s(8) or 0) <= 8.5
