"""The queue over real worker processes without a model: every misbehaviour, every way to leave."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from vision_server.errors import (
    BadImage,
    Busy,
    CannotServe,
    CheckpointError,
    DeadlinePassed,
    LoadFailed,
    OutOfMemory,
    QueueFull,
    VisionError,
    WorkerCrash,
)
from vision_server.jobs import Hello, Model, Outcome, Queue, Request, open_queue

WAIT_S = 30


TOY = "toy"


def opened(*arguments: str, idle_timeout_s: float = 300.0, **how: Any) -> AbstractAsyncContextManager[Queue]:
    command = [sys.executable, "-m", "tests.fake_worker", *arguments]
    return open_queue([Model(Hello("nowhere", TOY), idle_timeout_s)], command=command, **how)


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


class TestAdmission:
    async def test_exactly_the_capacity_while_loading(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with opened("--load", "slow", "--gate", str(gate), max_queue=16) as queue:
            asked = [ask(queue, str(i)) for i in range(1000)]
            await until(lambda: sum(task.done() for task in asked) == 984)
            assert (queue.depth, queue.capacity) == (16, 16)
            with pytest.raises(QueueFull) as caught:
                queue.check_admission()
            assert caught.value.retry_after_s is not None
            assert 1 <= caught.value.retry_after_s <= 120
            gate.touch()
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert [isinstance(result, Outcome) for result in results] == [True] * 16 + [False] * 984
            assert {type(result) for result in results[16:]} == {QueueFull}

    async def test_what_the_worker_holds_takes_no_place(self) -> None:
        async with opened("--slots", "2", max_queue=3) as queue:
            await queue.load(TOY)
            asked = [ask(queue, "hold") for _ in range(5)]
            await until(lambda: (queue.in_flight, queue.depth) == (2, 3))
            with pytest.raises(QueueFull):
                await queue.submit(request())
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            await finished(ask(queue))

    async def test_retry_after_follows_the_rate(self) -> None:
        async with opened("--slots", "1") as queue:
            await finished(*(ask(queue) for _ in range(100)))
            held = [ask(queue, "hold") for _ in range(41)]
            await until(lambda: queue.depth == 40)
            assert queue.retry_after_s() == 1
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)


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


def opened_two(*arguments: str, idle_timeout_s: float = 300.0, **how: Any) -> AbstractAsyncContextManager[Queue]:
    command = [sys.executable, "-m", "tests.fake_worker", *arguments]
    models = [Model(Hello("nowhere", TOY), idle_timeout_s), Model(Hello("elsewhere", "other", "cuda:1"), 0.2)]
    return open_queue(models, command=command, **how)


class TestSeveralModels:
    async def test_each_request_is_answered_by_its_model_and_there_is_one_worker_at_a_time(self) -> None:
        async with opened_two("--slots", "2") as queue:
            seen: set[int] = set()

            async def watch() -> None:
                while True:
                    children = psutil.Process().children()
                    assert len(children) <= 1
                    seen.update(child.pid for child in children)
                    await asyncio.sleep(0.002)

            watching = asyncio.create_task(watch())
            names = [TOY, "other", "other", TOY, "other", TOY]
            outcomes = await finished(*(ask(queue, "model", model=name) for name in names))
            assert [outcome.text for outcome in outcomes] == [f"<CAPTION>|{name}|7" for name in names]
            assert not watching.done(), watching.exception()
            watching.cancel()
            status = queue.status()
            assert (status.loads, status.unloads, status.restarts) == (len(seen), len(seen) - 1, 0)
            assert 2 <= len(seen) <= 4

    async def test_status_shows_the_loaded_one_or_else_the_default(self) -> None:
        async with opened_two() as queue:
            status = queue.status()
            assert (status.model, status.models, status.device) == (TOY, (TOY, "other"), "auto")
            await queue.load("other", keep_alive_s=-1)
            assert (queue.status().model, queue.status().device) == ("other", "cpu")
            await queue.unload()
            assert (queue.status().model, queue.status().device) == (TOY, "auto")

    async def test_the_second_one_is_released_after_its_own_idle_time(self) -> None:
        async with opened_two() as queue:
            await finished(ask(queue))
            await finished(ask(queue, model="other"))
            await until(lambda: queue.status().state == "unloaded")
            assert (queue.status().unloads, queue.status().restarts) == (2, 0)

    async def test_one_that_cannot_be_loaded_does_not_keep_the_other_from_it(self) -> None:
        async with opened_two("--load", "fail", "--only", "other") as queue:
            asked = [ask(queue, model=name) for name in ("other", TOY, "other", TOY)]
            results = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), WAIT_S)
            assert [type(result) for result in results] == [CheckpointError, Outcome, CheckpointError, Outcome]
            status = queue.status()
            assert (status.state, status.failure) == ("ready", None)
            assert status.failures == {"other": "The fake checkpoint cannot be loaded."}

    async def test_a_download_goes_on_although_nobody_is_let_wait_for_it(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        how = ("--load", "download", "--only", "other", "--gate", str(gate))
        async with opened_two(*how, wait_for_download=False) as queue:
            with pytest.raises(CannotServe, match=r"other is being downloaded: .* 1,074 MB") as caught:
                await asyncio.wait_for(queue.submit(request(model="other")), WAIT_S)
            assert caught.value.retry_after_s
            status = queue.status()
            assert (status.state, status.load_phase, status.model) == ("loading", "download", "other")
            load = asyncio.create_task(queue.load("other"))
            toy = ask(queue)
            with pytest.raises(CannotServe, match="being downloaded"):
                await queue.submit(request(model="other"))
            assert not load.done()
            gate.touch()
            await asyncio.wait_for(load, WAIT_S)
            await finished(toy)
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
