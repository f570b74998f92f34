"""The queue over real worker processes without a model: every misbehaviour, every way to leave."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from tests.queueing import TOY, WAIT_S, ask, finished, opened, request, until
from vision_server.errors import (
    Busy,
    CannotServe,
    CheckpointError,
    LoadFailed,
    OutOfMemory,
    VisionError,
    WorkerCrash,
)
from vision_server.jobs import Hello, Model, Outcome, open_queue


async def test_one_request() -> None:
    async with opened() as queue:
        assert queue.status().state == "unloaded"
        outcome = await queue.submit(request("x"))
        assert (outcome.text, outcome.width, outcome.height) == ("<CAPTION>|x|7", 64, 48)
        assert set(outcome.timings_ms) == {"queue", "load", "decode", "encode", "generate"}
        assert outcome.timings_ms["load"] > 0
        status = queue.status()
        assert (status.state, status.device, status.loads, status.in_flight) == ("ready", "cpu", 1, 0)
        assert status.worker_pid is not None
        assert status.worker_rss_bytes
        assert status.idle_unload_in_s == pytest.approx(300, abs=5)
    assert not psutil.pid_exists(status.worker_pid)
    assert asdict(queue.status())["state"] == "unloaded"


async def test_many_first_requests_load_once() -> None:
    async with opened("--slots", "3") as queue:
        outcomes = await finished(*(ask(queue, str(i)) for i in range(50)))
        assert [outcome.text for outcome in outcomes] == [f"<CAPTION>|{i}|7" for i in range(50)]
        assert queue.status().loads == 1


@pytest.mark.parametrize("how", ["crash", "kill", "exit0", "garbage", "half"])
async def test_a_worker_that_dies_once_costs_nobody_anything(how: str, tmp_path: Path) -> None:
    async with opened("--slots", "3") as queue:
        asked = [ask(queue, "a"), ask(queue, f"once:{tmp_path / 'done'}:{how}"), ask(queue, "b"), ask(queue, "c")]
        outcomes = await finished(*asked)
        assert [outcome.text.split("|")[1] for outcome in outcomes][::2] == ["a", "b"]
        status = queue.status()
        assert (status.restarts, status.loads, status.state) == (1, 2, "ready")


@pytest.mark.parametrize("how", ["crash", "exit0", "garbage", "half"])
async def test_a_poison_fails_alone(how: str) -> None:
    async with opened("--slots", "4") as queue:
        await queue.load(TOY)
        asked = [ask(queue, text) for text in ("a", how, "b", "c", "d")]
        results = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), WAIT_S)
        assert [type(result) for result in results] == [Outcome, WorkerCrash, Outcome, Outcome, Outcome]
        assert "/" not in str(results[1])


async def test_a_hung_worker_is_replaced() -> None:
    async with opened(step_stall_timeout_s=0.3) as queue:
        results = await asyncio.wait_for(
            asyncio.gather(ask(queue, "hang"), ask(queue, "b"), return_exceptions=True), 30
        )
        assert [type(result) for result in results] == [WorkerCrash, Outcome]


async def test_a_suspended_worker_is_nobodys_fault(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with opened(step_stall_timeout_s=0.5) as queue:
        await queue.load(TOY)
        asked = ask(queue, f"gate:{gate}")
        await until(lambda: queue.in_flight == 1)
        for _ in range(3):
            pid = queue.status().worker_pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            await until(lambda pid=pid: queue.status().worker_pid not in (pid, None) and queue.in_flight == 1)  # type: ignore[misc]
        gate.touch()
        await finished(asked)


async def test_five_kills_from_outside_are_enough() -> None:
    async with opened() as queue:
        with pytest.raises(WorkerCrash, match="outside"):
            await queue.submit(request("kill"))
        assert queue.status().restarts == 5


class TestLoading:
    @pytest.mark.parametrize(("how", "error"), [("fail", CheckpointError), ("oom", OutOfMemory)])
    async def test_a_failure_is_told_and_the_next_request_tries_again(
        self, how: str, error: type[VisionError], tmp_path: Path
    ) -> None:
        async with opened("--load", how, "--once", str(tmp_path / "done")) as queue:
            results = await asyncio.gather(ask(queue), ask(queue), queue.load(TOY), return_exceptions=True)
            assert [type(result) for result in results] == [error] * 3
            assert len({id(result) for result in results}) == 3
            await until(lambda: queue.status().state == "failed")
            assert queue.status().failure == "The fake checkpoint cannot be loaded."
            await finished(ask(queue))
            assert queue.status().failure is None

    @pytest.mark.parametrize("how", ["crash", "exit0", "garbage", "kill"])
    async def test_a_death_while_loading_is_tried_again(self, how: str, tmp_path: Path) -> None:
        async with opened("--load", how, "--once", str(tmp_path / "done")) as queue:
            await finished(ask(queue))
            assert queue.status().restarts == 1

    async def test_a_load_that_always_crashes_is_given_up(self) -> None:
        async with opened("--load", "crash") as queue:
            with pytest.raises(LoadFailed) as caught:
                await queue.submit(request())
            assert caught.value.retry_after_s
            assert queue.status().restarts == 3

    async def test_a_stall_is_ended(self) -> None:
        async with opened("--load", "stall", load_stall_timeout_s=0.5) as queue:
            with pytest.raises(LoadFailed, match="no progress"):
                await queue.submit(request())

    async def test_progress_keeps_a_slow_load_alive(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with opened("--load", "slow", "--gate", str(gate), load_stall_timeout_s=1) as queue:
            asked = ask(queue)
            began_s = time.monotonic()
            await until(lambda: time.monotonic() - began_s > 1.5)
            status = queue.status()
            assert (status.state, status.load_phase) == ("loading", "weights")
            assert status.load_bytes_done > 0
            gate.touch()
            await finished(asked)

    async def test_a_command_that_cannot_run(self, tmp_path: Path) -> None:
        async with open_queue([Model(Hello("nowhere", TOY))], command=[str(tmp_path / "nothing")]) as queue:
            with pytest.raises(LoadFailed) as caught:
                await queue.submit(request())
            assert "nothing" not in str(caught.value)
            assert queue.status().state == "failed"

    async def test_a_killed_loading_worker(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with opened("--load", "slow", "--gate", str(gate)) as queue:
            asked = ask(queue)
            await until(lambda: queue.status().load_phase == "weights")
            pid = queue.status().worker_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            gate.touch()
            await finished(asked)


class TestIdle:
    async def test_released_and_started_again(self) -> None:
        async with opened(idle_timeout_s=0.2) as queue:
            await finished(ask(queue))
            pid = queue.status().worker_pid
            assert pid is not None
            await until(lambda: queue.status().state == "unloaded")
            assert not psutil.pid_exists(pid)
            assert not psutil.Process().children()
            await finished(ask(queue))
            status = queue.status()
            assert (status.loads, status.unloads, status.restarts) == (2, 1, 0)

    async def test_looking_does_not_keep_it_awake(self) -> None:
        async with opened(idle_timeout_s=0.3) as queue:
            await finished(ask(queue))
            await until(lambda: queue.status().state == "unloaded")  # asks a thousand times a second

    async def test_requests_at_the_moment_of_release_are_all_answered(self) -> None:
        async with opened(idle_timeout_s=0) as queue:
            for i in range(20):
                assert (await finished(ask(queue, str(i))))[0].text == f"<CAPTION>|{i}|7"
            assert queue.status().restarts == 0

    async def test_keep_alive_of_the_last_request_counts(self) -> None:
        async with opened(idle_timeout_s=0) as queue:
            await finished(ask(queue, keep_alive_s=-1))
            assert (queue.status().state, queue.status().idle_unload_in_s) == ("ready", None)
            await queue.load(TOY, keep_alive_s=50)
            assert queue.status().idle_unload_in_s == pytest.approx(50, abs=5)
            await finished(ask(queue))
            await until(lambda: queue.status().state == "unloaded")


class TestUnload:
    async def test_load_and_unload(self) -> None:
        async with opened() as queue:
            await queue.unload()
            await asyncio.gather(*(queue.load(TOY) for _ in range(10)))
            assert queue.status().loads == 1
            await asyncio.gather(*(queue.unload() for _ in range(10)))
            assert (queue.status().state, queue.status().unloads) == ("unloaded", 1)

    async def test_busy_and_forced(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with opened("--slots", "1") as queue:
            asked = [ask(queue, f"gate:{gate}"), ask(queue, "b")]
            await until(lambda: queue.in_flight == 1)
            with pytest.raises(Busy):
                await queue.unload()
            unload = asyncio.create_task(queue.unload(force=True))
            await asyncio.sleep(0)
            late = ask(queue, "late")
            gate.touch()
            await finished(*asked)
            await asyncio.wait_for(unload, WAIT_S)
            await finished(late)
            assert (queue.status().loads, queue.status().unloads) == (2, 1)

    async def test_32_loading_and_unloading_while_64_caption(self) -> None:
        async with opened("--slots", "4") as queue:

            async def shake(turn: int) -> None:
                for _ in range(3):
                    await (queue.load(TOY) if turn % 2 else queue.unload(force=True))

            shaking = [asyncio.create_task(shake(turn)) for turn in range(32)]
            outcomes = await finished(*(ask(queue, str(i)) for i in range(64)))
            assert [outcome.text for outcome in outcomes] == [f"<CAPTION>|{i}|7" for i in range(64)]
            await asyncio.wait_for(asyncio.gather(*shaking), 60)
            assert queue.status().restarts == 0


class TestShutdown:
    async def test_drain_finishes_and_admits_nobody(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with opened("--slots", "1") as queue:
            asked = [ask(queue, f"gate:{gate}"), ask(queue, "b")]
            await until(lambda: queue.in_flight == 1)
            drain = asyncio.create_task(queue.drain())
            await until(lambda: queue.status().draining)
            for refused in (queue.submit(request()), queue.load(TOY)):
                with pytest.raises(CannotServe):
                    await refused
            gate.touch()
            await finished(*asked)
            await asyncio.wait_for(drain, WAIT_S)
            assert queue.status().worker_pid is None

    async def test_the_grace_has_an_end(self) -> None:
        async with opened("--slots", "1", shutdown_grace_s=0.2) as queue:
            asked = [ask(queue, "hold"), ask(queue, "b")]
            await until(lambda: queue.in_flight == 1)
            await asyncio.wait_for(queue.drain(), WAIT_S)
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(result) for result in results] == [CannotServe] * 2

    @pytest.mark.parametrize("text", ["hold", "hang"])
    async def test_leaving_the_context_ends_everything(self, text: str) -> None:
        async with opened() as queue:
            asked = ask(queue, text)
            await until(lambda: queue.in_flight == 1)
        with pytest.raises(CannotServe):
            await asked
        assert not psutil.Process().children()

    async def test_closing_while_the_process_is_being_started(self) -> None:
        async with opened() as queue:
            asked = ask(queue)
            await asyncio.sleep(0)
        with pytest.raises(CannotServe):
            await asked
        assert not psutil.Process().children()


def test_the_daemon_side_never_imports_torch() -> None:
    script = "import sys, vision_server.jobs; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert psutil.Popen([sys.executable, "-c", script]).wait(WAIT_S) == 0
