"""Many at once: a thousand posts into a queue of 16, and threads that load and unload while others ask for captions."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler

from tests.daemon_process import ENVIRONMENT, GIF, Daemon
from vision_server.api import bodies
from vision_server.api.app import create_app
from vision_server.api.keys import QUEUE
from vision_server.settings import Settings

POSTS, PLACES = 1000, 16
REFUSED_WITHIN_S = 0.05


class Stopwatch:
    """Innermost middleware: how long each handler took to refuse, the time that another process had the core aside."""

    def __init__(self) -> None:
        self.refusals_s: list[float] = []
        self._begun = 0

    @web.middleware
    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._begun += 1
        number, switches = self._begun, _switches()
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        try:
            return await handler(request)
        except Exception:
            wall_s, cpu_s = time.perf_counter() - wall_s, time.thread_time() - cpu_s
            alone = number == self._begun and switches != _switches()  # preempted, and no other handler ran meanwhile
            self.refusals_s.append(cpu_s if alone else wall_s)
            raise


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


@contextlib.contextmanager
def enough_sockets() -> Iterator[None]:
    """Both ends of every connection are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * POSTS + 500
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            pytest.skip("this user may not open enough sockets")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_thousand_posts_into_a_queue_of_16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the model loads exactly 16 are admitted; each refusal is fast, and nothing of the refused is decoded."""
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "config.json").write_text("{}")
    gate, tally = tmp_path / "gate", tmp_path / "tally"
    worker = ("--load", "slow", "--gate", str(gate), "--tally", str(tally))
    settings = Settings(model=str(tmp_path / "toy"), prompts=("<FAKE>",), max_queue=PLACES)
    app = create_app(settings, (sys.executable, "-m", "tests.fake_worker", *worker))
    stopwatch = Stopwatch()
    app.middlewares.append(stopwatch.__call__)
    decoded = 0
    decode = bodies.decode_image

    def counting(value: object, settings: Settings) -> bytes:
        nonlocal decoded
        decoded += 1
        return decode(value, settings)

    monkeypatch.setattr(bodies, "decode_image", counting)
    body = json.dumps({"image": base64.b64encode(GIF).decode(), "prompt": "FAKE"}).encode()

    with enough_sockets():
        async with (
            TestServer(app, host="127.0.0.1") as server,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):

            async def post() -> tuple[int, int]:
                async with session.post(server.make_url("/process_image"), data=body) as response:
                    await response.read()
                    return response.status, int(response.headers.get("Retry-After", 0))

            asked = [asyncio.create_task(post()) for _ in range(POSTS)]
            queue = app[QUEUE]
            while sum(task.done() for task in asked) < POSTS - PLACES:
                assert queue.depth <= PLACES
                await asyncio.sleep(0.01)
            assert (queue.depth, queue.status().state) == (PLACES, "loading")
            gate.touch()
            answers = await asyncio.wait_for(asyncio.gather(*asked), 60)

    assert [status for status, _ in answers].count(HTTPStatus.OK) == PLACES
    refused = [retry_after_s for status, retry_after_s in answers if status == HTTPStatus.TOO_MANY_REQUESTS]
    assert len(refused) == POSTS - PLACES == len(stopwatch.refusals_s)
    assert all(1 <= retry_after_s <= 120 for retry_after_s in refused)
    assert max(stopwatch.refusals_s) < REFUSED_WITHIN_S
    assert decoded == PLACES == tally.stat().st_size


def shake(folder: Path, turns: int, captions: int) -> None:
    """32 threads load and unload in turn while 64 clients ask for captions: nobody is lost or answered wrongly."""
    config = folder / "config.yaml"
    config.write_text("model: demo\nport: 0\nprompts: [<FAKE>]\n")
    command = [sys.executable, "-m", "tests.fake_daemon", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            daemon = Daemon(process)
            with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(96) as threads:
                assert process.stderr is not None
                reader.submit(process.stderr.read)  # so that the log never fills its pipe

                def load_and_unload(who: int) -> set[int]:
                    paths = ["/load", "/unload?force=1"]
                    return {daemon.call(paths[(who + turn) % 2], b"")[0] for turn in range(turns)}

                def caption(who: int) -> None:
                    for turn in range(captions):
                        assert daemon.caption(f"{who}-{turn}") == (200, {"result": f"<FAKE>|{who}-{turn}|{len(GIF)}"})

                shaking = [threads.submit(load_and_unload, who) for who in range(32)]
                asking = [threads.submit(caption, who) for who in range(64)]
                for asked in asking:
                    asked.result()
                assert set().union(*(one.result() for one in shaking)) == {200}
                status = daemon.call("/status")[1]
                process.terminate()
            assert (status["queue_depth"], status["in_flight"], status["restarts"]) == (0, 0, 0)
            assert status["loads"] - status["unloads"] in (0, 1)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_32_threads_load_and_unload_while_64_clients_caption(tmp_path: Path) -> None:
    shake(tmp_path, turns=2, captions=2)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_32_threads_load_and_unload_for_long(tmp_path: Path) -> None:
    shake(tmp_path, turns=60, captions=60)
