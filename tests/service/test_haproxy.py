"""service/haproxy.cfg under Debian's HAProxy: what it retries and what it cannot, who gets requests, what becomes of
captions while machines are killed, drained, restarted and woken up."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from tests.bench import several
from tests.daemon_process import GIF
from tests.service.balanced import CONFIG, HAPROXY, KEY, ROOT, Machine, Proxy, machines, proxy, until

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
BUFFER_BYTES = 1 << 20


class Breaker:
    """A machine that says it is ready, reads every other request to its end, and hangs up."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.machine = Machine("breaker", "127.0.0.1", self.socket.getsockname()[1])
        self.bodies: list[int] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            head = b"".join(iter(file.readline, b"\r\n"))
            if head.startswith(b"GET /ready "):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
            self.bodies.append(len(file.read(int(length.partition(b":")[2]))))


def lower(headers: Message) -> dict[str, str]:
    """HAProxy writes the names in small letters."""
    return {name.lower(): value for name, value in headers.items()}


def ask(url: str, picture: bytes, text: str = "", **headers: str) -> tuple[int, Any, dict[str, str]]:
    body = json.dumps({"image": base64.b64encode(picture).decode(), "prompt": "FAKE", "text_input": text}).encode()
    request = urllib.request.Request(f"{url}/process_image", body, {"X-API-Key": KEY, **headers})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response), lower(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            data = error.read()
        return error.code, json.loads(data) if data.startswith(b"{") else data, lower(error.headers)


@contextmanager
def faked(
    folder: Path, names: str, *others: Machine, words: tuple[str, ...] = ()
) -> Iterator[tuple[Proxy, list[Machine]]]:
    """Daemons without a model, and `others`, behind the proxy; all are up."""
    (folder / "toy").mkdir(exist_ok=True)
    (folder / "toy" / "config.json").write_text("{}")
    words = ("--model", str(folder / "toy"), "--prompts", "<FAKE>", *words)
    with ExitStack() as stack:
        ours = stack.enter_context(machines(names, *words, module="tests.fake_daemon"))
        for machine in ours:
            machine.start()
        through = stack.enter_context(proxy([*others, *ours], folder))
        for machine in (*others, *ours):
            until(lambda name=machine.name: through.status(name).startswith("UP"), "up")  # type: ignore[misc]
        yield through, ours


def test_haproxy_finds_nothing_wrong_with_the_file_as_it_is() -> None:
    assert HAPROXY is not None
    done = subprocess.run([HAPROXY, "-c", "-f", str(CONFIG)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def test_what_fits_into_the_buffer_is_asked_of_another_machine_and_what_does_not_is_lost(tmp_path: Path) -> None:
    """A machine that dies with a request in its hands. The limit is on the whole request, headers and base64."""
    breaker = Breaker()
    with breaker.socket, faked(tmp_path, "a", breaker.machine) as (through, _):
        for padding, fits in ((0, True), (700_000, True), (900_000, False)):
            found = [ask(through.url, GIF + b"\0" * padding)[0] for _ in range(4)]
            size = len(base64.b64encode(GIF + b"\0" * padding))
            assert (size < BUFFER_BYTES) is fits
            assert set(found) == ({200} if fits else {200, 502}), (padding, found)
        assert any(size < BUFFER_BYTES for size in breaker.bodies)
        assert any(size > BUFFER_BYTES for size in breaker.bodies)


def test_keys_pass_and_ids_come_back(tmp_path: Path) -> None:
    with faked(tmp_path, "a") as (through, _):
        status, answer, headers = ask(through.url, GIF, **{"X-Request-Id": "mine"})
        assert (status, headers["x-request-id"]) == (200, "mine")
        assert answer == {"result": f"<FAKE>||{len(GIF)}"}
        assert len(ask(through.url, GIF)[2]["x-request-id"]) == 36  # the proxy's, a UUID
        assert ask(through.url, GIF, **{"X-API-Key": "wrong"})[0] == 401
        with urllib.request.urlopen(through.stats_url, timeout=60) as page:
            assert b"machines" in page.read()


def test_without_any_machine_the_refusal_is_one_of_ours(tmp_path: Path) -> None:
    """JSON with Retry-After, as clients know it; and the proxy's own health says so."""
    with faked(tmp_path, "a") as (through, [a]):
        with urllib.request.urlopen(f"{through.url}/haproxy-health", timeout=60) as response:
            assert response.status == 200
        a.kill()
        until(lambda: through.status("a").startswith("DOWN"), "down")
        status, answer, headers = ask(through.url, GIF)
        assert (status, answer["code"], headers["retry-after"]) == (503, "unavailable", "5")
        assert set(answer) == {"error", "detail", "code", "request_id"}
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{through.url}/haproxy-health", timeout=60)


def test_a_machine_that_gets_sigterm_loses_nothing_of_clients_that_do_not_retry(tmp_path: Path) -> None:
    """With a notice, pictures beyond the buffer too: what it has is answered, and it is left out before it leaves."""
    large = GIF + b"\0" * 900_000
    with faked(tmp_path, "ab", words=("--leave-notice", "4")) as (through, [a, b]):
        assert a.daemon is not None
        found: list[int] = []
        done = threading.Event()

        def keep_asking() -> None:
            while not done.is_set():
                found.append(ask(through.url, large)[0])

        threads = [threading.Thread(target=keep_asking) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: len(found) > 20, "twenty answers")
            assert a.leave() == 0
            assert not through.status("a").startswith("UP")
            a.start()
            until(lambda: through.status("a").startswith("UP"), "up again")
            assert b.leave() == 0
            before = len(found)
            until(lambda: len(found) > before + 8, "answers of the one that came back")
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert set(found) == {200}


def check(figures: dict[str, Any], captions: int) -> None:
    assert (figures["answered"], figures["lost"], figures["wrong"]) == (captions, 0, 0), figures
    assert figures["loads_of_the_one_asleep"] == 1


def test_our_client_loses_no_caption_whatever_happens_to_the_machines() -> None:
    check(several.trouble(120, 32, several.PATIENCE_S), 120)


@pytest.mark.soak
def test_our_client_loses_none_of_500() -> None:
    check(several.trouble(500, 32, several.PATIENCE_S), 500)


def test_the_committed_figures_are_of_500_captions_and_none_was_lost() -> None:
    path = Path(several.__file__).parent / "results" / "several.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    check(found["with_retries"], 500)
    assert found["clients"] == 32
    assert found["without_retries"]["captions"] == 500
    check(found["with_retries_beyond_the_buffer"], 500)
    readme = (ROOT / "service" / "README.md").read_text(encoding="utf-8")
    for run in [run for run in found.values() if isinstance(run, dict) and "captions" in run]:
        assert run["wrong"] == 0
        assert f"| {run['captions_per_s']} | {run['p50_s']}, {run['p99_s']} |" in readme
