"""What the doctor says of checkpoints that come from the hub, and of running servers. The rest is in test_cli."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import psutil
import pytest

from tests.live_daemon import live_daemon
from tests.peer import Peer, good
from tests.test_listing import BASE, FILES, put
from vision_server import __version__, doctor
from vision_server.client import checkup
from vision_server.setting_models import MODELS
from vision_server.settings import Settings


def told(capsys: pytest.CaptureFixture[str], settings: Settings) -> tuple[str, list[str]]:
    report = doctor.Report()
    doctor.checkpoints(report, settings)
    return capsys.readouterr().out, report.faults


def test_what_will_be_downloaded_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, faults = told(capsys, Settings(cache_dir=tmp_path / "none" / "yet", hf_token="hf_secret"))
    assert "promptgen-large is absent on this disk: its first request fetches it, 3.3 GB" in out
    assert f"{tmp_path / 'none' / 'yet'} (" in out
    assert "hf_secret" not in out
    assert faults == []
    assert not (tmp_path / "none").exists()


def test_what_is_there_and_what_offline_mode_keeps_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(tmp_path, BASE, *FILES)
    put(tmp_path, "models--owner--name", "config.json")
    models = MODELS.parse({"promptgen-base": None, "mine": {"model": "owner/name", "revision": "v2"}, "demo": None})
    out, faults = told(capsys, Settings(model="promptgen-base", models=models, cache_dir=tmp_path, offline=True))
    assert f"promptgen-base in {folder}, 0.0 MB" in out
    assert "demo in " in out
    assert faults == [
        "model mine: owner/name at v2 is partial on this disk, and offline mode keeps it from being fetched."
    ]


def test_a_disk_without_room_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    _, faults = told(capsys, Settings(cache_dir=tmp_path))
    assert faults == [
        "model promptgen-large: MiaoshouAI/Florence-2-large-PromptGen-v2.0 at main needs 3.3 GB more, "
        "and 1.0 GB are free."
    ]


def test_models_that_cannot_be_served_are_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, faults = told(capsys, Settings(model="dmeo", cache_dir=tmp_path))
    assert len(faults) == 1
    assert "Did you mean demo?" in faults[0]


# Of a running server ------------------------------------------------------------------------------------------------

GIF = b"GIF89a\1\0\1\0\0\0\0\x2c\0\0\0\0\1\0\1\0\0"


class Visit:
    """The doctor at a server; what was printed and found wrong, and the exit code."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    async def __call__(self, url: str) -> tuple[int, dict[str, str], list[str]]:
        """In a thread, since the server may live in this event loop. The lines by name, and the faults."""
        code = await asyncio.to_thread(doctor.main, {}, None, url)
        out = self.capsys.readouterr().out
        told = [line for line in out.splitlines() if line.startswith("  ") and not line.startswith("  - ")]
        faults = [line.removeprefix("  - ") for line in out.splitlines() if line.startswith("  - ")]
        assert out.endswith("Nothing is wrong.\n") is (code == 0) is (faults == [])
        return code, {line[2:24].strip(): line[24:] for line in told}, faults


@pytest.fixture
def visit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Visit:
    for name in ("VISION_API_KEY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return Visit(capsys)


async def test_a_sound_server_is_not_woken(visit: Visit, tmp_path: Path) -> None:
    async with live_daemon(tmp_path / "toy") as url:
        for _ in range(2):
            code, told, _ = await visit(url)
            assert code == 0
            assert told["server"] == f"{url} answers"
            assert told["version"].startswith(f"{__version__}, up for 0:00:")
            assert (told["state"], told["ready"], told["model"]) == ("unloaded", "yes", "toy on auto, auto")
            assert (told["queue"], told["memory"]) == ("0 of 256 wait, 0 in flight", "no worker")
            assert (told["loads"], told["unloads"], told["restarts"]) == ("0", "0", "0")


async def test_loads_unloads_and_restarts_by_cause(visit: Visit, tmp_path: Path) -> None:
    async with live_daemon(tmp_path / "toy") as url, aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.post(f"{url}/load") as response:
                pid = (await response.json())["worker_pid"]
        code, told, _ = await visit(url)
        assert code == 0
        assert told["state"].startswith("ready, unloads in 0:0")
        assert told["memory"].startswith("worker ")
        psutil.Process(pid).kill()
        while (status := await (await session.get(f"{url}/status")).json())["restarts"] != 1:
            pass
        assert status["state"] == "unloaded"
        await (await session.post(f"{url}/load")).read()
        await (await session.post(f"{url}/unload")).read()
        code, told, _ = await visit(url)
        assert (code, told["restarts"], told["unloads"]) == (0, "1: SIGKILL 1", "1: unload 1")
        assert told["loads"].startswith("2, the last in ")


async def test_a_failed_load_is_told_once(visit: Visit, tmp_path: Path) -> None:
    async with live_daemon(tmp_path / "toy", "--load", "fail") as url, aiohttp.ClientSession() as session:
        await (await session.post(f"{url}/load")).read()
        while (await (await session.get(f"{url}/status")).json())["state"] != "failed":
            pass
        code, told, faults = await visit(url)
        assert (code, told["state"]) == (1, "failed")
        assert faults == ["model toy could not be loaded: The fake checkpoint cannot be loaded."]


async def test_a_full_queue(visit: Visit, tmp_path: Path) -> None:
    words = ("--slots", "1")
    async with live_daemon(tmp_path / "toy", *words, max_queue=1, prompts=("<FAKE>",)) as url:
        async with aiohttp.ClientSession() as session:
            ask = f"{url}/process_image?prompt=FAKE&text_input=hold"
            held = [asyncio.create_task(session.post(ask, data=GIF))]
            while not (await (await session.get(f"{url}/status")).json())["in_flight"]:
                pass
            held.append(asyncio.create_task(session.post(ask, data=GIF)))
            while not (await (await session.get(f"{url}/status")).json())["queue_depth"]:
                pass
            _, _, faults = await visit(url)
            assert faults == ["the queue is full: 1 of 1 wait, 1 in flight; more get 429."]
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)


async def test_keys(visit: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with live_daemon(tmp_path / "toy", api_key="s3cret") as url:
        code, _, faults = await visit(url)
        assert (code, len(faults)) == (1, 1)
        assert faults[0].startswith(f"the server at {url} wants a key: put it into VISION_API_KEY.")
        monkeypatch.setenv("VISION_API_KEY", "other")
        code, _, faults = await visit(url)
        assert (code, len(faults)) == (1, 1)
        assert "refuses the key in VISION_API_KEY. It says: The key is wrong." in faults[0]
        assert "other" not in faults[0]
        monkeypatch.setenv("VISION_API_KEY", "s3cret")
        assert (await visit(url))[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 0.0.0.0 leads nowhere")
async def test_a_host_name_that_is_refused(visit: Visit, tmp_path: Path) -> None:
    async with live_daemon(tmp_path / "toy") as url:
        code, _, faults = await visit(url.replace("127.0.0.1", "0.0.0.0"))
        assert (code, len(faults)) == (1, 1)
        assert "the server refuses the name in http://0.0.0.0:" in faults[0]
        assert "allowed_hosts" in faults[0]


async def test_nobody_there_and_no_address(visit: Visit) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert await visit(f"http://127.0.0.1:{port}") == (
        1,
        {"server": f"WRONG: nothing listens at http://127.0.0.1:{port}."},
        [f"nothing listens at http://127.0.0.1:{port}."],
    )
    assert (await visit("ftp://x"))[2] == ["ftp://x is no address of a server: give one like http://127.0.0.1:54880."]


def test_a_server_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        [finding] = checkup.examine(url, None, answer_timeout_s=0.05)
    assert finding == checkup.Finding("server", f"{url} takes the connection but does not answer.", is_wrong=True)


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, b"<html>hello"),
        good({"state": "running"}),
        good(["state"]),
        good({"state": ["ready"]}),
        (404, {}, b"not here"),
        (302, {"Location": "http://127.0.0.1:1/"}, b""),
    ],
)
async def test_another_kind_of_server(visit: Visit, peer: Peer, answer: tuple[int, dict[str, str], bytes]) -> None:
    peer.answers = {"/status": answer, "/ready": good({})}
    code, told, faults = await visit(peer.url)
    assert (code, list(told), len(faults)) == (1, ["server"], 1)
    assert "vision-server" in faults[0]


async def test_an_older_server_is_read_as_far_as_it_goes(visit: Visit, peer: Peer) -> None:
    status: dict[str, Any] = {"state": "ready", "model": "demo", "models": ["demo", "b"], "loads": 1, "unloads": 0}
    peer.answers = {"/status": good({**status, "restarts": 3}), "/ready": good({"status": "ready"})}
    code, told, faults = await visit(peer.url)
    assert (code, told["restarts"], told["loads"]) == (1, "3", "1")
    assert faults == [f"the server is older than {__version__}, which this is: update it."]


async def test_a_server_that_leaves(visit: Visit, peer: Peer) -> None:
    body = json.dumps({"error": "The server is shutting down."}).encode()
    status = {"state": "ready", "version": "9.9", "uptime_s": 93784.0}
    peer.answers = {"/status": good(status), "/ready": (503, {}, body)}
    _, told, faults = await visit(peer.url)
    assert told["version"] == f"9.9 (here it is {__version__}), up for 1 day, 2:03:04"
    assert faults == ["the server cannot serve now: The server is shutting down."]


async def test_what_steers_a_terminal_is_not_printed(visit: Visit, peer: Peer) -> None:
    nasty = "\x1b[2J\nforged"
    status = {"state": "ready", "version": nasty, "uptime_s": float("nan"), "model": nasty, "models": [nasty, 1]}
    status |= {"failures": {nasty: nasty}, "restarts": nasty, "restarts_by_cause": {nasty: 1}, "loads": {"a": nasty}}
    peer.answers = {"/status": good(status), "/ready": good({})}
    _, told, faults = await visit(peer.url)
    assert all(text.isprintable() for text in (*told, *told.values(), *faults))
    assert faults[0].startswith("model ?[2J?")
