"""The wait for several works of one request: what is told, and when."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from vision_server.api import streams
from vision_server.api.streams import Stream, all_results, result_of, under_way
from vision_server.errors import BadImage, QueueFull, VisionError


class Pinged:
    """A stream that does something when a piece is written."""

    def __init__(self, then: Any) -> None:
        self.then = then
        self.pieces: list[bytes] = []

    async def write(self, piece: bytes) -> None:
        self.pieces.append(piece)
        await self.then()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PING_S", 0.01)


async def failing(when: asyncio.Event, error: VisionError) -> str:
    await when.wait()
    raise error


async def never() -> str:
    await asyncio.Event().wait()
    return ""


async def test_a_failure_during_a_ping_is_told_at_once() -> None:
    """And not when the picture before it has its answer."""
    fails = asyncio.Event()

    async def fail_now() -> None:
        fails.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    stream = Pinged(fail_now)
    async with under_way([never(), failing(fails, BadImage("A bad picture."))]) as tasks:
        with pytest.raises(BadImage, match=r"^Picture 2 of 2: A bad picture\.$"):
            await result_of(0, tasks, cast(Stream, stream), b"ping")
    assert stream.pieces == [b"ping"]
    assert tasks[0].cancelled()


@pytest.mark.parametrize(
    ("count", "error", "words"),
    [
        (2, BadImage("A bad picture."), "Picture 1 of 2: A bad picture."),
        (1, BadImage("A bad picture."), "A bad picture."),
        (2, QueueFull("Full.", retry_after_s=7), "Full."),  # which no picture is to blame for
    ],
)
async def test_the_first_failure_is_that_of_all(count: int, error: VisionError, words: str) -> None:
    fails = asyncio.Event()
    fails.set()
    async with under_way([failing(fails, error), *(never() for _ in range(count - 1))]) as tasks:
        with pytest.raises(type(error)) as caught:
            await all_results(tasks)
    assert (str(caught.value), caught.value.retry_after_s) == (words, error.retry_after_s)


async def test_results_come_in_the_order_of_the_works() -> None:
    async def late(text: str, s: float) -> str:
        await asyncio.sleep(s)
        return text

    async with under_way([late("first", 0.05), late("second", 0)]) as tasks:
        assert await all_results(tasks) == ["first", "second"]
    assert await all_results([]) == []
