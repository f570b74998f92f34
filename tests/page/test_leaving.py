"""A server that leaves: it says so and finishes what it has, and what it no longer takes goes to the next one."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .browsing import Open, Page, bring, choose, expect, run
from .conftest import Daemon

pytestmark = pytest.mark.browser

GONE = ("Failed to load resource", "net::")  # what Chromium says of errors and of broken connections
SOON_MS = 15_000  # half of the time after which the server that leaves tells everybody to ask again


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def tell_to_leave(url: str) -> None:
    """SIGTERM for the daemon there, which has a worker."""
    with urllib.request.urlopen(f"{url}/status", timeout=60) as response:
        worker = json.load(response)["worker_pid"]
    daemon = psutil.Process(worker).parent()
    assert daemon is not None
    daemon.terminate()


def ask_and_hold(page: Page, gate: Path, *files: str) -> None:
    """About all of them; the worker holds two until the gate is open."""
    bring(page, *files)
    choose(page, "<CAPTION_TO_PHRASE_GROUNDING>", text=f"gate:{gate}")
    run(page)
    expect(page.locator("#figures")).to_contain_text("2 at work")


class Relay(socketserver.ThreadingTCPServer):
    """As a proxy would, hands each new connection on to `port`, which may be another one than before."""

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ends: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.turn_to(url)

    def turn_to(self, url: str) -> None:
        self.port = int(url.rpartition(":")[2])


class _Handler(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port)) as there:
            self.server.ends += [self.request, there]
            back = threading.Thread(target=pump, args=(there, self.request))
            back.start()
            pump(self.request, there)
            back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Until either end is closed; then both are."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    shut([source, sink])


def shut(ends: list[socket.socket]) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relaying(url: str) -> Iterator[Relay]:
    with Relay(url) as relay:
        thread = threading.Thread(target=relay.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield relay
        finally:
            relay.shutdown()
            thread.join()
            shut(relay.ends)


def test_a_server_that_leaves_finishes_and_the_rest_waits_for_the_next(
    open_page: Open, fake: Daemon, tmp_path: Path
) -> None:
    port, gate = free_port(), tmp_path / "gate"
    with fake(port=port, shutdown_grace_s="100") as url:
        page = open_page(url, expected=GONE)
        ask_and_hold(page, gate, "scene-01.jpg", "scene-02.png", "scene-03.jpg")
        tell_to_leave(url)
        expect(page.locator("#state")).to_have_text("Shutting down")
        expect(page.locator("#sentence")).to_contain_text("finishes what it has and takes nothing new")
        expect(page.locator("#unload")).to_be_disabled()
        bring(page, "scene-04.png")
        page.get_by_role("button", name="scene-04.png", exact=True).click()
        run(page)
        expect(page.locator("#hold-why")).to_have_text("The server is shutting down.")
        expect(page.locator("#hold-time")).to_contain_text("Trying again in")
        gate.touch()
        expect(page.locator("#tally")).to_have_text("3 of 4 answers")
        expect(page.locator("#state")).to_have_text("Not answering")
        expect(page.locator("#hold-why")).to_contain_text("goes on when it is back")
        expect(page.locator("#figures")).not_to_contain_text("at work")  # nobody knows
    with fake(port=port):
        expect(page.locator("#tally")).to_have_text("4 of 4 answers")
        expect(page.locator("#state")).to_have_text("Ready")
        expect(page.locator("#hold")).to_be_hidden()


def test_another_server_is_noticed_though_it_has_been_up_for_longer(
    open_page: Open, fake: Daemon, tmp_path: Path
) -> None:
    """Behind a proxy it takes the place of one that leaves, and need not be spared for as long as that one said."""
    gate = tmp_path / "gate"
    with fake() as elder, fake(shutdown_grace_s="100") as younger, relaying(younger) as relay:
        page = open_page(relay.url, expected=GONE)
        ask_and_hold(page, gate, "scene-01.jpg", "scene-02.png")
        tell_to_leave(younger)
        expect(page.locator("#state")).to_have_text("Shutting down")
        bring(page, "scene-03.jpg")
        page.get_by_role("button", name="scene-03.jpg", exact=True).click()
        choose(page, "<CAPTION>")
        run(page)
        expect(page.locator("#hold-time")).to_contain_text("Trying again in")
        relay.turn_to(elder)
        expect(page.locator("#tally")).to_have_text("1 of 3 answers", timeout=SOON_MS)
        expect(page.locator("#hold")).to_be_hidden()
        gate.touch()
        expect(page.locator("#tally")).to_have_text("3 of 3 answers")


def test_the_server_goes_and_comes_back_and_nothing_is_lost(open_page: Open, fake: Daemon, tmp_path: Path) -> None:
    """Not what was asked, not the answers there are, and not the place in the list of prompts."""
    port, gate = free_port(), tmp_path / "gate"
    with fake(port=port, shutdown_grace_s="0.1") as url:
        page = open_page(url, expected=GONE)
        bring(page, "scene-01.jpg", "scene-02.png", "scene-03.jpg")
        choose(page, "<CAPTION>")
        run(page)
        expect(page.locator("#tally")).to_have_text("3 of 3 answers")
        page.click("#clear")
        ask_and_hold(page, gate, "scene-01.jpg", "scene-02.png", "scene-03.jpg")
        field = page.locator('.prompt input[type="text"]:visible')
        field.focus()
    expect(page.locator("#state")).to_have_text("Not answering")
    expect(page.locator("#hold-why")).to_contain_text("goes on when it is back")
    gate.touch()
    with fake(port=port):
        expect(page.locator("#tally")).to_have_text("3 of 3 answers")
        expect(page.locator("#state")).to_have_text("Ready")
        expect(page.locator("#hold")).to_be_hidden()
        expect(field).to_be_focused()
        expect(field).to_have_value(f"gate:{gate}")
