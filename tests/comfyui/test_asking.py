"""Many questions at a time: how many, in what order, and how they end."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch

WAIT_S = 60


@pytest.fixture
def asking(part: Callable[[str], Any]) -> Any:
    return part("asking")


@pytest.fixture
def server(part: Callable[[str], Any]) -> Any:
    return part("server").Server("127.0.0.1:9")


def test_so_many_are_asked_at_a_time(pack: ModuleType, stub: Any) -> None:
    """Each waits until four are there, and never are there five."""
    four, here, most = threading.Barrier(4), [0], [0]
    lock = threading.Lock()

    def reply(path: str, _: Any, fields: Any) -> tuple[int, dict[str, str], Any]:
        with lock:
            here[0] += 1
            most[0] = max(most[0], here[0])
        four.wait(WAIT_S)
        with lock:
            here[0] -= 1
        return 200, {}, {"result": fields["text_input"]}

    node = pack.NODE_CLASS_MAPPINGS["VisionServerCaptionBatch"]()
    texts = [str(number) for number in range(12)]
    captions, _ = node.run(
        [torch.zeros(1, 8, 8, 3)], prompt=["<ASK>"], text_input=texts, parallel=[4], server=[stub(reply).url]
    )
    assert captions == texts
    assert most == [4]


def test_the_first_fault_ends_the_others(asking: Any, server: Any) -> None:
    begun = threading.Event()
    ended = threading.Event()

    def fail() -> None:
        begun.wait(WAIT_S)
        raise KeyError("mine")

    def hold() -> None:
        begun.set()
        if server._stopped.wait(WAIT_S):
            ended.set()

    with pytest.raises(KeyError, match="mine"):
        asking.ask_all(server, [hold, fail, hold], 2)
    assert ended.wait(WAIT_S)


def test_cancel_ends_what_the_server_works_on(pack: ModuleType, comfyui: Any) -> None:
    """ComfyUI's own exception is raised, and the server sees the connection end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(WAIT_S)
        raised: list[BaseException] = []

        def run() -> None:
            try:
                pack.NODE_CLASS_MAPPINGS["VisionServerCaption"]().run(
                    torch.zeros(1, 8, 8, 3), "<CAPTION>", f"127.0.0.1:{listening.getsockname()[1]}"
                )
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        connected, _ = listening.accept()
        with connected:
            connected.settimeout(WAIT_S)
            assert connected.recv(1 << 16).startswith(b"POST /process_image")
            assert raised == []
            comfyui.cancelled.set()
            while connected.recv(1 << 16):
                pass
        thread.join(WAIT_S)
        assert [type(error) for error in raised] == [comfyui.Interrupted]


def test_progress_counts_the_answers(asking: Any, server: Any, comfyui: Any) -> None:
    assert asking.ask_all(server, [partial(str, number) for number in range(5)], 2) == ["0", "1", "2", "3", "4"]
    counts = [current for current, _ in comfyui.progress]
    assert counts == sorted(counts)
    assert comfyui.progress[-1] == (5, 5)


def test_nothing_is_asked_of_nobody(asking: Any, server: Any) -> None:
    assert asking.ask_all(server, [], 4) == []


def test_it_runs_without_comfyui(asking: Any, server: Any) -> None:
    assert "comfy" not in sys.modules
    assert asking.ask_all(server, [lambda: "alone"], 1) == ["alone"]
    asking.raise_if_cancelled()
