"""From a name to an answer: a daemon, its real worker, the real hub client, and a hub on loopback that misbehaves.

What is served is the embedded checkpoint, as somebody's repository.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.daemon_process import ENVIRONMENT, Daemon
from tests.hub_server import Hub, Misbehaviour, Repository, serve
from vision_server.catalog import EMBEDDED

NAME, WEIGHTS = "someone/florence", "model.safetensors"
FILES = {path.name: path.read_bytes() for path in EMBEDDED.iterdir()}
SIZE = len(FILES[WEIGHTS])
TOTAL = sum(map(len, FILES.values()))
HALF = SIZE // 2
BUFFER_BYTES = 1 << 16  # what was counted, but not handed to the system before its process was killed
PICTURE = next(EMBEDDED.parents[1].joinpath("samples").glob("*.png"))
TOKEN = "hf_do_not_show_me"

Start = Callable[..., Daemon]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as served:
        served.repositories[NAME] = Repository(dict(FILES))
        yield served


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A daemon that serves the repository; flags as words, environment by name. This machine's own hub is not seen."""
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {NAME}\nport: 0\ndevice: cpu\nload_stall_timeout_s: 600\n")
    plain = {name: value for name, value in ENVIRONMENT.items() if not name.startswith(("HF_", "HUGGING_FACE_"))}
    plain |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "*"}
    with contextlib.ExitStack() as stack:

        def begin(*words: str, **variables: str) -> Daemon:
            command = [sys.executable, "-m", "vision_server", "--config", str(config), *words]
            environment = {**plain, **variables}
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment))
            stack.callback(process.kill)
            return Daemon(process)

        yield begin


def caption(daemon: Daemon) -> tuple[int, Any]:
    return daemon.call("/process_image?prompt=CAPTION&max_new_tokens=4", PICTURE.read_bytes())


def status(daemon: Daemon) -> dict[str, Any]:
    answer: dict[str, Any] = daemon.call("/status")[1]
    return answer


def until(daemon: Daemon, asked: Future[Any], condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Look at /status, some twenty times a second, until it is as it should be; what was asked must not be over."""
    while not condition(now := status(daemon)):
        assert not asked.done(), asked.result()
        threading.Event().wait(0.05)
    return now


def past_the_download(daemon: Daemon) -> None:
    """Have the daemon load, until the files are there and the rest has begun; that one is tested elsewhere."""
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(daemon.call, "/load", b"")
        until(daemon, asked, lambda now: now["state"] == "ready" or now["load_phase"] == "weights")
        daemon.process.kill()
        assert isinstance(asked.exception(), OSError) or asked.result()[0] == 200


def asked_of_the_cdn(hub: Hub) -> bool:
    """Which comes after the hub itself was, whose answer names it."""
    return any(one.path.startswith("/cdn/") for one in hub.seen)


def log_of(daemon: Daemon) -> str:
    """Ends it, so that nothing more is written."""
    daemon.process.kill()
    assert daemon.process.stderr is not None
    return daemon.before + daemon.first_line + daemon.process.stderr.read()


def refused(daemon: Daemon, code: str, said: str) -> None:
    """A load that fails with 503, in a sentence without paths and addresses; the reason stays in /status and /ready."""
    answer = daemon.call("/load", b"")
    assert (answer[0], answer[1].get("code")) == (503, code), answer
    for text in (answer[1]["error"], status(daemon)["failure"], daemon.call("/ready")[1]["error"]):
        assert said in text
        assert not [secret for secret in ("127.0.0.1", "http", "/home/", "models--", "Traceback") if secret in text]


def test_the_first_request_downloads_with_progress_in_the_status_and_waits(hub: Hub, start: Start) -> None:
    how = hub.misbehaviour[WEIGHTS] = Misbehaviour(trickle_from=HALF)
    daemon = start("--hf-endpoint", hub.url)
    assert status(daemon)["state"] == "unloaded"
    assert hub.seen == []
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(caption, daemon)
        now = until(daemon, asked, lambda now: now["load_bytes_done"] >= HALF)
        assert (now["load_phase"], now["load_bytes_total"]) == ("download", TOTAL)
        assert HALF <= now["load_bytes_done"] < TOTAL
        assert daemon.call("/model") == (200, NAME)
        assert daemon.call("/ready")[0] == 200
        how.go_on.set()
        code, answer = asked.result()
    assert (code, type(answer["result"])) == (200, str), answer
    assert (status(daemon)["state"], status(daemon)["loads"]) == ("ready", 1)
    assert [one.range for one in hub.gets(WEIGHTS)] == [None]


def test_who_need_not_wait_for_a_download_is_told_when_to_come_back(hub: Hub, start: Start) -> None:
    hub.misbehaviour[WEIGHTS] = Misbehaviour(trickle_from=HALF)
    daemon = start("--hf-endpoint", hub.url, "--no-wait-for-download")
    code, answer = caption(daemon)
    assert (code, answer["code"]) == (503, "unavailable"), answer
    assert "download" in answer["error"]
    while status(daemon)["load_bytes_done"] < HALF:
        threading.Event().wait(0.05)
    code, answer = caption(daemon)
    assert (code, answer["code"]) == (503, "unavailable"), answer
    assert re.search(r" \d of 12 MB are here", answer["error"]), answer
    hub.misbehaviour[WEIGHTS].go_on.set()
    while status(daemon)["load_phase"] == "download":
        threading.Event().wait(0.05)
    assert daemon.call("/ready")[0] == 200


def test_after_each_failure_the_next_request_goes_on_where_it_broke(hub: Hub, start: Start) -> None:
    daemon = start("--hf-endpoint", hub.url, "--download-stall-timeout", "4")
    hub.misbehaviour[WEIGHTS] = Misbehaviour(cut_at=[100_000, 100_000])
    refused(daemon, "load_failed", "The connection was cut")
    hub.misbehaviour[WEIGHTS] = Misbehaviour(stall_at=HALF)
    refused(daemon, "load_failed", "stood still")
    hub.misbehaviour[WEIGHTS] = Misbehaviour(corrupt=True)
    refused(daemon, "load_failed", "arrived damaged and was thrown away")
    hub.misbehaviour[WEIGHTS] = Misbehaviour(cut_at=[HALF], gap_s=0.5, pieces=20)  # slow is not stalled
    past_the_download(daemon)
    ranges = [one.range for one in hub.gets(WEIGHTS)]
    assert ranges == [None, "bytes=100000-", "bytes=100000-", f"bytes={HALF}-", None, f"bytes={HALF}-"]


def test_what_the_hub_refuses_is_told_and_asked_again(hub: Hub, start: Start) -> None:
    daemon = start("--hf-endpoint", hub.url)
    hub.refuse["/api/"] = (401, {"X-Error-Message": "Invalid credentials in Authorization header"})
    refused(daemon, "bad_checkpoint", "The hub does not accept the token")
    hub.refuse = {"/resolve/": (403, {"X-Error-Code": "GatedRepo"})}
    refused(daemon, "bad_checkpoint", f"{NAME} is gated")
    hub.refuse = {"/api/": (500, {})}
    refused(daemon, "load_failed", "The hub answered with an error (500)")
    hub.refuse.clear()
    repository = hub.repositories.pop(NAME)
    refused(daemon, "bad_checkpoint", f"The hub shows no repository {NAME}")
    hub.repositories[NAME] = Repository({"README.md": b"# no model"})
    refused(daemon, "bad_checkpoint", f"{NAME} has no config.json")
    hub.repositories[NAME] = repository
    hub.repositories[NAME].push("v2", {})
    other = start("--hf-endpoint", hub.url, "--revision", "v3")
    refused(other, "bad_checkpoint", f"{NAME} has no revision v3")


def test_without_a_network_and_offline_there_is_only_what_is_on_disk(hub: Hub, start: Start, tmp_path: Path) -> None:
    refused(start(), "load_failed", "The hub cannot be reached")
    refused(start("--offline", HF_ENDPOINT=hub.url), "load_failed", "leave offline mode once")
    refused(start(HF_HUB_OFFLINE="1", HF_ENDPOINT=hub.url), "load_failed", "leave offline mode once")
    assert hub.seen == []
    pulled = subprocess.run(
        [sys.executable, "-m", "vision_server", "pull", NAME, "--hf-endpoint", hub.url],
        env={**ENVIRONMENT, "HF_HOME": str(tmp_path / "home"), "VISION_SERVER_CONFIG": str(tmp_path / "config.yaml")},
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert Path(pulled.stdout.decode().strip()).is_dir()
    asked = len(hub.seen)
    for daemon in (start(), start("--offline", HF_ENDPOINT=hub.url), start(HF_HUB_OFFLINE="1")):
        past_the_download(daemon)
        assert f"{NAME} is complete in the cache" in log_of(daemon)
    assert len(hub.seen) == asked


def test_the_librarys_variables_count_and_the_token_is_shown_nowhere(hub: Hub, start: Start, tmp_path: Path) -> None:
    """HF_HOME, HF_ENDPOINT and HF_TOKEN, where the settings say nothing; then the setting, which wins."""
    how = hub.misbehaviour[WEIGHTS] = Misbehaviour(trickle_from=HALF)
    shown = ""
    for variables in ({"HF_TOKEN": TOKEN}, {"HF_TOKEN": "hf_another", "VISION_SERVER_HF_TOKEN": TOKEN}):
        hub.seen.clear()
        daemon = start("--log-level", "debug", HF_ENDPOINT=hub.url, **variables)
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(daemon.call, "/load", b"")
            until(daemon, asked, lambda _: asked_of_the_cdn(hub))
            processes = [psutil.Process(daemon.process.pid), psutil.Process(status(daemon)["worker_pid"])]
            shown += str([process.cmdline() for process in processes]) + json.dumps(status(daemon))
            daemon.process.kill()
            assert isinstance(asked.exception(), OSError)
        assert daemon.process.stderr is not None
        shown += daemon.process.stderr.read()
        psutil.wait_procs(processes, timeout=30)
        assert {one.token for one in hub.seen if not one.path.startswith("/cdn/")} == {f"Bearer {TOKEN}"}
        assert {one.token for one in hub.seen if one.path.startswith("/cdn/")} == {None}
        assert not [one for one in hub.seen if "torch" in one.agent]
    how.go_on.set()
    assert list((tmp_path / "home" / "hub").glob("models--*"))
    assert "download" in shown
    assert TOKEN not in shown
    assert hub.url not in shown


def test_a_daemon_that_died_during_a_download_is_gone_on_from(hub: Hub, start: Start) -> None:
    hub.misbehaviour[WEIGHTS] = Misbehaviour(trickle_from=HALF)
    daemon = start("--hf-endpoint", hub.url)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(caption, daemon)
        until(daemon, asked, lambda now: now["load_bytes_done"] >= TOTAL - SIZE + HALF)  # the small ones come first
        worker = psutil.Process(status(daemon)["worker_pid"])
        daemon.process.kill()
        assert isinstance(asked.exception(), OSError)
    assert worker.wait(30) is not None or not worker.is_running()
    hub.misbehaviour.clear()
    past_the_download(start("--hf-endpoint", hub.url))
    first, resumed = [one.range for one in hub.gets(WEIGHTS)]
    assert first is None
    assert HALF - BUFFER_BYTES <= int(str(resumed).removeprefix("bytes=").removesuffix("-")) < SIZE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_and_tried_again(hub: Hub, start: Start, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    blobs = cache / "models--someone--florence" / "blobs"
    blobs.mkdir(parents=True)
    etag = hub.repositories[NAME].etag(WEIGHTS, FILES[WEIGHTS])
    part = blobs / f"{etag}.vision-server.incomplete"
    part.symlink_to("/dev/full")
    daemon = start("--hf-endpoint", hub.url, "--cache-dir", str(cache))
    refused(daemon, "load_failed", "The disk became full")
    part.unlink()
    past_the_download(daemon)
    assert not (tmp_path / "home" / "hub").exists()
