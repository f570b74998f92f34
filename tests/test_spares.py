"""The queue over real worker processes that are started ahead of their model."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.queueing import TOY, WAIT_S, ask, finished, opened, opened_two, request, until
from vision_server.errors import CannotServe, LoadFailed
from vision_server.jobs import Hello, Model, Queue, open_queue


def standby_pid(queue: Queue) -> int | None:
    return queue.status().standby_pid


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children()}


async def test_the_process_that_was_started_for_a_body_becomes_the_worker() -> None:
    async with opened() as queue:
        assert standby_pid(queue) is None
        with queue.expect(), queue.expect():
            await until(lambda: standby_pid(queue) is not None)
            pid = standby_pid(queue)
            assert (queue.status().state, queue.status().worker_pid) == ("unloaded", None)
        assert (await finished(ask(queue, "x")))[0].text == "<CAPTION>|x|7"
        status = queue.status()
        assert (status.worker_pid, status.standby_pid, status.loads) == (pid, None, 1)
        with queue.expect():
            await finished(ask(queue))
        assert children() == {pid}


async def test_a_body_that_comes_at_once_needs_no_second_process() -> None:
    async with opened() as queue:
        with queue.expect():
            pass
        await finished(ask(queue))
        assert children() == {queue.status().worker_pid}
        assert queue.status().restarts == 0


async def test_without_a_request_the_process_goes_with_the_queue() -> None:
    async with opened() as queue:
        with queue.expect():
            await until(lambda: standby_pid(queue) is not None)
        await queue.unload()
        assert standby_pid(queue) is not None, "an unload ends the worker"
        assert len(children()) == 1
    assert children() == set()


async def test_closing_while_the_spare_is_being_started() -> None:
    async with opened() as queue:
        with queue.expect():
            pass
    assert children() == set()


async def test_draining_ends_it_and_no_other_comes() -> None:
    async with opened(standby=True) as queue:
        await until(lambda: standby_pid(queue) is not None)
        await queue.drain()
        await until(lambda: standby_pid(queue) is None)
        with queue.expect():
            await asyncio.sleep(0)
        assert children() == set()
        with pytest.raises(CannotServe), queue.admit(0):
            pass


async def test_a_spare_that_was_killed_while_it_became_the_worker_costs_nobody_anything() -> None:
    async with opened() as queue:
        with queue.expect():
            await until(lambda: standby_pid(queue) is not None)
        pid = standby_pid(queue)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert (await finished(ask(queue, "x")))[0].text == "<CAPTION>|x|7"
        assert queue.status().worker_pid != pid


async def test_a_command_that_cannot_run_is_told_to_who_asks_not_to_who_is_expected(tmp_path: Path) -> None:
    async with open_queue([Model(Hello("nowhere", TOY))], command=[str(tmp_path / "nothing")]) as queue:
        with queue.expect():
            pass
        with pytest.raises(LoadFailed):
            await queue.submit(request("x"))
        assert queue.status().state == "failed"


class TestStandby:
    async def test_it_waits_from_the_beginning_and_again_after_the_worker(self) -> None:
        async with opened(standby=True, idle_timeout_s=0.2) as queue:
            seen: set[int | None] = set()
            for turn in (1, 2, 3):
                await until(lambda: standby_pid(queue) is not None)
                spare = standby_pid(queue)
                assert children() == {spare}
                assert spare not in seen
                seen.add(spare)
                await finished(ask(queue))
                assert (queue.status().worker_pid, queue.status().loads) == (spare, turn)
                assert standby_pid(queue) is None, "one model: the worker needs nobody beside it"
                await until(lambda: queue.status().state == "unloaded")
                assert spare is not None
                assert not psutil.pid_exists(spare), "an idle worker ends whole"
            assert queue.status().restarts == 0

    async def test_a_swap_takes_the_one_that_waits_beside_the_worker(self) -> None:
        async with opened_two(standby=True) as queue:
            await finished(ask(queue))
            await until(lambda: standby_pid(queue) is not None)
            spare = standby_pid(queue)
            assert children() == {queue.status().worker_pid, spare}
            await finished(ask(queue, model="other"))
            assert queue.status().worker_pid == spare
            assert queue.status().restarts == 0

    async def test_a_crash_is_mended_with_it(self) -> None:
        async with opened(standby=True) as queue:
            await finished(ask(queue))
            pid = queue.status().worker_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda: standby_pid(queue) is not None)
            spare = standby_pid(queue)
            await finished(ask(queue))
            assert queue.status().worker_pid == spare

    async def test_never_two_with_a_model_however_often_it_is_loaded(self) -> None:
        async with opened(standby=True) as queue:
            most = 0

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, len(children()))
                    await asyncio.sleep(0.002)

            watching = asyncio.create_task(watch())
            for _ in range(5):
                await asyncio.wait_for(asyncio.gather(queue.load(TOY), *(ask(queue) for _ in range(3))), WAIT_S)
                await queue.unload(force=True)
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            assert most == 1
            assert (queue.status().loads, queue.status().unloads) == (5, 5)
