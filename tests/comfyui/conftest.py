"""The node pack, imported as ComfyUI imports it; a server that says what a test tells it to."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.client.conftest import started

PACK = Path(__file__).parents[2] / "clients" / "comfyui"

Reply = tuple[int, dict[str, str], Any]


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """ComfyUI names the module by its path, puts it where imports find it, and executes it."""
    name = str(PACK).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def part(pack: ModuleType) -> Callable[[str], Any]:
    """One of the pack's files, by name."""
    return lambda name: sys.modules[f"{pack.__name__}.{name}"]


@pytest.fixture(scope="module")
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A daemon with the embedded checkpoint. For a module: others look at which processes there are."""
    config = tmp_path_factory.mktemp("comfyui") / "config.yaml"
    with started("vision_server", config, model="demo", dtype="float32", device="cpu") as url:
        yield url


class Stub(ThreadingHTTPServer):
    """Answers with `reply(path, headers, fields)`, each call in a thread of its own."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, reply: Callable[[str, dict[str, str], Any], Reply]) -> None:
        self.reply = reply
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, headers, answer = self.server.reply(self.path, dict(self.headers), json.loads(body or b"null"))
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def stub() -> Iterator[Callable[[Callable[[str, dict[str, str], Any], Reply]], Stub]]:
    """Starts one; it ends with the test."""
    running: list[Stub] = []

    def start(reply: Callable[[str, dict[str, str], Any], Reply]) -> Stub:
        running.append(Stub(reply))
        threading.Thread(target=running[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return running[-1]

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _no_settings_of_this_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VISION_HOST", "VISION_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def comfyui(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """ComfyUI's own modules as far as the pack uses them: `cancelled` is its button, `progress` what its bars showed.

    As in ComfyUI, to raise takes the wish to cancel back.
    """
    root, utils, management = ModuleType("comfy"), ModuleType("comfy.utils"), ModuleType("comfy.model_management")
    shown: list[tuple[int, int]] = []
    cancelled = threading.Event()

    class InterruptProcessingException(Exception):
        pass

    class ProgressBar:
        def __init__(self, total: int) -> None:
            self.total, self.current = total, 0

        def update(self, value: int) -> None:
            self.current += value
            shown.append((self.current, self.total))

    def throw_exception_if_processing_interrupted() -> None:
        if cancelled.is_set():
            cancelled.clear()
            raise InterruptProcessingException

    for module, names in (
        (utils, {"ProgressBar": ProgressBar}),
        (management, {"throw_exception_if_processing_interrupted": throw_exception_if_processing_interrupted}),
        (root, {"progress": shown, "cancelled": cancelled, "Interrupted": InterruptProcessingException}),
    ):
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return root
