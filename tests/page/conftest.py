"""Chromium, the page in it, and daemons behind it: one with the embedded checkpoint, others without a model."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vision_server import demo

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from .browsing import Open

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()

Daemon = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For a module: a browser that outlived it would leave its event loop to the tests of others."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS, timeout=120_000)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    problems: list[str] = []

    def start(url: str, *, expected: tuple[str, ...] = (), ready: bool = True, **context: Any) -> Page:
        def note(problem: str) -> None:
            # A daemon may end before its page does, which then asks in vain how it is.
            if not any(words in problem for words in (*expected, "ERR_CONNECTION_REFUSED")):
                problems.append(problem)

        page = browser.new_context(**{"viewport": {"width": 1360, "height": 860}, **context}).new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda message: note(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: note(str(error)))
        page.on("requestfailed", lambda request: note(f"{request.failure} {request.url}"))
        page.goto(url)
        if ready:
            page.wait_for_selector(".prompt")
        return page

    yield start
    for context in browser.contexts:
        context.close()
    assert problems == []


@pytest.fixture(scope="module")
def embedded() -> Iterator[str]:
    """The address of a daemon with the embedded checkpoint. For a module: others look at which processes there are."""
    with demo.running_daemon({"model": "demo", "device": "cpu", "dtype": "float32"}) as url:
        yield url


@pytest.fixture
def fake(tmp_path: Path) -> Daemon:
    """`with fake("--load slow", max_queue="4") as url`: a daemon with these settings; its worker has no model."""
    directory = tmp_path / "toy"
    directory.mkdir()
    (directory / "config.json").write_text("{}")

    def start(worker: str = "", **settings: str) -> AbstractContextManager[str]:
        command = (sys.executable, "-m", "tests.fake_daemon", f"--worker={worker}")
        return demo.running_daemon({"model": str(directory), **settings}, command)

    return start
