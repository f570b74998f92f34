"""The real queue under a clock of our own: requests at the edge of idle expiry, a clock that jumps, and scraping."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from tests.worker.fake_clock import LOAD_S, RUN_S, STOP_S, Loop, run
from vision_server.jobs import Hello, Model, Outcome, Queue, Request, open_queue

IDLE_S = 5.0
MODEL = Model(Hello("nowhere", "toy"), IDLE_S)


async def ask(queue: Queue, text: str) -> Outcome:
    return await queue.submit(Request("r", "toy", b"", "<CAPTION>", text))


@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_requests_within_5_ms_of_idle_expiry(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real loop: who comes as the timer is due, between its firing and the worker's end, or exactly then."""
    chance = random.Random(seed)

    async def main() -> None:
        waits_s: list[float] = []
        loop = asyncio.get_running_loop()
        async with open_queue([MODEL]) as queue:
            await ask(queue, "first")
            for turn in range(10_000 // 3 + 1):
                await asyncio.sleep(IDLE_S + chance.choice([0.0, chance.uniform(-0.005, 0.005)]))
                asked_s = loop.time()
                assert (await ask(queue, str(turn))).text == str(turn)
                waits_s.append(loop.time() - asked_s)
            status = queue.status()
        assert (status.loads, status.restarts) == (status.unloads + 1, 0)
        assert max(waits_s) < STOP_S + LOAD_S + RUN_S + 0.001
        assert status.unloads == sum(wait_s > LOAD_S for wait_s in waits_s)
        assert status.unloads > 500
        assert status.unloads < 3000

    run(main(), monkeypatch)


@pytest.mark.parametrize("seed", range(5))
def test_a_clock_that_jumps_loses_nobody(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The monotonic one forward, by less than what counts as a stall; the one on the wall anywhere, nobody reads it."""
    chance = random.Random(seed)
    monkeypatch.setattr(time, "time", lambda: chance.uniform(-1e10, 1e10))

    async def jump() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        while True:
            await asyncio.sleep(chance.uniform(LOAD_S + RUN_S, 8.0))
            loop.now += chance.choice([0.5, IDLE_S, 60.0, 119.0])

    async def main() -> None:
        async with open_queue([MODEL]) as queue:
            jumping = asyncio.create_task(jump())
            for turn in range(200):
                asked = [ask(queue, f"{turn}.{number}") for number in range(chance.randint(1, 4))]
                outcomes = await asyncio.gather(*asked)
                assert [outcome.text for outcome in outcomes] == [f"{turn}.{number}" for number in range(len(asked))]
                await asyncio.sleep(chance.choice([0.0, 0.5, IDLE_S]))
            jumping.cancel()
            assert (queue.depth, queue.in_flight, queue.status().restarts) == (0, 0, 0)
            assert queue.status().unloads > 20

    run(main(), monkeypatch)


def test_scraping_every_second_does_not_keep_it_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with open_queue([MODEL]) as queue:
            await ask(queue, "x")
            answered_s = loop.time()
            while queue.status().state == "ready":
                left_s = queue.status().idle_unload_in_s
                assert left_s == pytest.approx(IDLE_S - (loop.time() - answered_s))
                await asyncio.sleep(1.0)
            assert loop.time() - answered_s == pytest.approx(IDLE_S, abs=1.0)
            for _ in range(3600):
                assert queue.status().state in ("unloading", "unloaded")
                await asyncio.sleep(1.0)
            assert queue.status().loads == 1

    run(main(), monkeypatch)
