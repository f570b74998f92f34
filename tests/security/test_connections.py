"""Slow, endless and very many connections: each costs little and ends in bounded time, and others are served."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.daemon_process import Daemon

from .conftest import Start, peak_bytes, rss_bytes
from .raw import WAIT_S, answer, connect, head, send, status

MB = 1 << 20


def closes(connection: socket.socket) -> bytes:
    """Everything until the server closes; a server that never does fails the test after WAIT_S."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            got += piece
    return got


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localh"])
def test_a_head_that_never_ends_is_cut_off(impatient: Daemon, sent: bytes) -> None:
    with connect(impatient) as connection:
        connection.sendall(sent)
        began_s = time.monotonic()
        assert closes(connection) == b""
        assert time.monotonic() - began_s < WAIT_S / 2
    assert impatient.call("/health")[0] == 200


def test_a_head_that_drips_is_cut_off_however_steadily(impatient: Daemon) -> None:
    with connect(impatient) as connection:
        connection.settimeout(0.02)
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        for _ in range(2000):
            try:
                connection.sendall(b"X-A: b\r\n")
                assert connection.recv(1) == b""
                return
            except TimeoutError:
                continue
            except ConnectionError:
                return
        pytest.fail("the connection is still open")


def test_an_idle_connection_is_closed_after_its_answer_too(impatient: Daemon) -> None:
    with connect(impatient) as connection:
        connection.sendall(head("GET", "/health"))
        assert status(answer(connection)) == 200
        assert closes(connection) == b""


@pytest.mark.parametrize("framing", [{"Content_Length": "1000"}, {"Transfer_Encoding": "chunked"}], ids=str)
@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data; boundary=x", "application/json"])
def test_a_slow_body_gets_408(impatient: Daemon, framing: dict[str, str], kind: str) -> None:
    with connect(impatient) as connection:
        connection.sendall(head(**{"Content_Type": kind, **framing}) + b"1\r\n{\r\n")
        assert status(answer(connection)) == 408
    assert impatient.call("/health")[0] == 200


def test_a_body_that_drips_gets_408_too(impatient: Daemon) -> None:
    with connect(impatient) as connection:
        connection.sendall(head(Transfer_Encoding="chunked"))
        connection.settimeout(0.02)
        got = b""
        for _ in range(2000):
            with contextlib.suppress(TimeoutError, ConnectionError):
                connection.sendall(b"1\r\nx\r\n")
                got = connection.recv(1 << 16)
            if got:
                break
        assert status(got) == 408


def test_many_idle_connections_keep_nobody_out(start: Start) -> None:
    """More than the 1,024 files that most systems let a process open unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("this system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))  # inherited by the daemon
    try:
        daemon = start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096) if soft != resource.RLIM_INFINITY else soft, hard))
    before = rss_bytes(daemon)
    with contextlib.ExitStack() as stack:
        for _ in range(1500):
            stack.enter_context(connect(daemon)).sendall(b"GET /hea")
        assert daemon.call("/health")[0] == 200
        assert daemon.caption("x")[0] == 200
        assert rss_bytes(daemon) - before < 100 * MB


def chunks(count: int, piece: bytes = b"1\r\n \r\n") -> Iterator[bytes]:
    for _ in range(count // 10_000):
        yield piece * 10_000


@pytest.mark.parametrize("kind", ["application/json", "image/png", "multipart/form-data; boundary=x"])
def test_one_byte_chunks_cost_time_that_grows_with_their_number_alone(patient: Daemon, kind: str) -> None:
    took_s = []
    process = psutil.Process(patient.process.pid)
    for count in (200_000, 800_000):
        began_s = sum(process.cpu_times()[:2])
        got = send(patient, head(Content_Type=kind, Transfer_Encoding="chunked"), chunks(count), b"0\r\n\r\n")
        took_s.append(sum(process.cpu_times()[:2]) - began_s)
        assert status(got) == 400 if kind != "image/png" else status(got) in (400, 415)
    assert took_s[1] < 10 * max(took_s[0], 0.1), took_s  # quadratic would be 16 times
    assert peak_bytes(patient) < 200 * MB


def test_an_endless_body_is_refused_at_the_limit(start: Start) -> None:
    daemon = start("--max-body", "1")
    piece = b"10000\r\n" + b"[" * 65_536 + b"\r\n"
    got = send(daemon, head(Transfer_Encoding="chunked"), (piece for _ in range(2000)))
    assert status(got) in (413, 0)  # 0: closed while we were still sending
    assert daemon.call("/health")[0] == 200
    assert peak_bytes(daemon) < 200 * MB


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 10_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health?" + b"a=b&" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["long header", "many headers", "long path", "long query"],
)
def test_a_huge_head_is_refused(patient: Daemon, sent: bytes) -> None:
    assert status(send(patient, sent)) in (400, 0)
    assert patient.call("/health")[0] == 200
    assert peak_bytes(patient) < 200 * MB


def test_thousands_of_query_fields_are_no_work(patient: Daemon) -> None:
    query = "&".join(f"a{n}=" for n in range(1200))
    began_s = time.monotonic()
    for _ in range(50):
        assert status(send(patient, head("POST", f"/process_image?{query}", Content_Length=0))) == 400
    assert time.monotonic() - began_s < 20


def test_requests_piled_up_behind_one_that_waits_are_bounded(start: Start) -> None:
    """Pipelining: the answers come in order, so what is sent behind a slow one waits in the daemon."""
    daemon = start()
    body = b'{"image": "R0lGODlhAQABAAAAACwAAAAAAQABAAA=", "prompt": "FAKE", "text_input": "hold"}'
    with connect(daemon) as connection:
        connection.settimeout(2.0)
        connection.sendall(head(Content_Length=len(body)) + body)
        daemon.until_in_flight(1)
        before = rss_bytes(daemon)
        with contextlib.suppress(TimeoutError):
            for _ in range(400):
                connection.sendall(head("GET", "/health") * 1000)
        assert rss_bytes(daemon) - before < 60 * MB
    assert daemon.call("/health")[0] == 200
