"""A queue over a worker process without a model, and how tests ask it. Not a test."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from vision_server.jobs import Hello, Model, Outcome, Queue, Request, open_queue

WAIT_S = 30
TOY = "toy"


def opened(*arguments: str, idle_timeout_s: float = 300.0, **how: Any) -> AbstractAsyncContextManager[Queue]:
    command = [sys.executable, "-m", "tests.fake_worker", *arguments]
    return open_queue([Model(Hello("nowhere", TOY), idle_timeout_s)], command=command, **how)


def opened_two(*arguments: str, idle_timeout_s: float = 300.0, **how: Any) -> AbstractAsyncContextManager[Queue]:
    command = [sys.executable, "-m", "tests.fake_worker", *arguments]
    models = [Model(Hello("nowhere", TOY), idle_timeout_s), Model(Hello("elsewhere", "other", "cuda:1"), 0.2)]
    return open_queue(models, command=command, **how)


def request(text: str = "", model: str = TOY, **more: Any) -> Request:
    return Request("r-" + text[:6], model, b"picture", "<CAPTION>", text, **more)


def ask(queue: Queue, text: str = "", **more: Any) -> asyncio.Task[Outcome]:
    """Submit; the request is in the queue once the loop has run."""
    return asyncio.create_task(queue.submit(request(text, **more)))


async def until(condition: Callable[[], bool]) -> None:
    """Turn the loop until the condition holds; nothing here is a matter of time, only of events."""
    give_up_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_s, "waited in vain"
        await asyncio.sleep(0.001)


async def finished(*waiting: Awaitable[Outcome]) -> list[Outcome]:
    return list(await asyncio.wait_for(asyncio.gather(*waiting), WAIT_S))
