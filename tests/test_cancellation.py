"""A client that leaves: its place is free at once, its decoder row at the next step, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.daemon_process import ENVIRONMENT, Daemon
from tests.queueing import TOY, ask, finished, opened, until
from vision_server.errors import BadImage, DeadlinePassed
from vision_server.jobs import Outcome
from vision_server.training.samples import FOLDER


class TestLeaving:
    async def test_cancelled_while_queued(self) -> None:
        async with opened("--slots", "1") as queue:
            await queue.load(TOY)
            held, gone, last = ask(queue, "hold"), ask(queue, "gone"), ask(queue, "last")
            await until(lambda: queue.depth == 2)
            gone.cancel()
            await until(lambda: queue.depth == 1)
            held.cancel()
            assert (await finished(last))[0].text == "<CAPTION>|last|7"
            assert queue.status().restarts == 0

    async def test_cancelled_while_running_frees_its_slot_and_no_other(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with opened("--slots", "2") as queue:
            stays, goes = ask(queue, f"gate:{gate}"), ask(queue, "hold")
            await until(lambda: queue.in_flight == 2)
            goes.cancel()
            await finished(ask(queue, "next"))
            gate.touch()
            await finished(stays)
            assert queue.in_flight == 0

    async def test_a_deadline_passes_in_the_queue_and_in_the_worker(self) -> None:
        async with opened("--slots", "1", request_timeout_s=3) as queue:
            await queue.load(TOY)
            began_s = time.monotonic()
            results = await asyncio.gather(ask(queue, "hold"), ask(queue, "hold"), return_exceptions=True)
            assert [type(result) for result in results] == [DeadlinePassed] * 2
            assert 2.9 < time.monotonic() - began_s < 20
            await finished(ask(queue))
            assert queue.status().restarts == 0

    async def test_a_request_of_its_own_failing(self) -> None:
        async with opened("--slots", "2") as queue:
            results = await asyncio.gather(ask(queue, "bad"), ask(queue, "good"), return_exceptions=True)
            assert [type(result) for result in results] == [BadImage, Outcome]


class Posted:
    """A picture on its way to a running daemon, on a connection of its own."""

    def __init__(self, daemon: Daemon, picture: bytes, request_id: str) -> None:
        self._connection = http.client.HTTPConnection(daemon.url.removeprefix("http://"), timeout=100)
        headers = {"X-Request-Id": request_id}
        self._connection.request("POST", "/process_image?prompt=MORE_DETAILED_CAPTION", picture, headers)

    def answer(self) -> tuple[int, Any]:
        with contextlib.closing(self._connection), self._connection.getresponse() as response:
            return response.status, json.load(response)

    def leave(self) -> None:
        self._connection.close()


def until_status(daemon: Daemon, **values: Any) -> dict[str, Any]:
    give_up_s = time.monotonic() + 60
    while not values.items() <= (status := daemon.call("/status")[1]).items():
        assert time.monotonic() < give_up_s, status
    return dict(status)


def test_the_real_worker_goes_on_with_everybody_else(tmp_path: Path) -> None:
    """It is suspended while clients come and leave, so that each is where the test wants it."""
    pictures = [path.read_bytes() for path in sorted(FOLDER.glob("*.png"))[:5]]
    config = tmp_path / "config.yaml"
    config.write_text("model: demo\ndtype: float32\nport: 0\nmax_batch: 2\nmax_queue: 2\n")
    command = [sys.executable, "-m", "vision_server", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            daemon = Daemon(process)
            quiet = [Posted(daemon, picture, "quiet").answer() for picture in pictures]
            assert {status for status, _ in quiet} == {200}
            pid = daemon.call("/status")[1]["worker_pid"]
            os.kill(pid, signal.SIGSTOP)
            here: list[Posted] = []
            for i in range(4):
                here.append(Posted(daemon, pictures[i], f"n{i}"))
                until_status(daemon, in_flight=min(i + 1, 2), queue_depth=max(i - 1, 0))
            assert Posted(daemon, pictures[4], "n4").answer()[0] == 429
            here[0].leave()
            here[2].leave()
            status = until_status(daemon, in_flight=2, queue_depth=1)
            assert (status["in_flight_ids"], status["queue"][0]["request_id"]) == (["n0", "n1"], "n3")
            here.append(Posted(daemon, pictures[4], "n4"))
            status = until_status(daemon, in_flight=2, queue_depth=2)
            assert [one["request_id"] for one in status["queue"]] == ["n3", "n4"]
            assert status["queue_bytes"] == sum(len(pictures[i]) for i in (1, 3, 4))
            os.kill(pid, signal.SIGCONT)
            assert [here[i].answer() for i in (1, 3, 4)] == [quiet[i] for i in (1, 3, 4)]
            status = until_status(daemon, in_flight=0, queue_depth=0, queue_bytes=0)
            assert (status["worker_pid"], status["restarts"]) == (pid, 0)
        finally:
            process.kill()
