"""One queue for several models: real worker processes without a model, one at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from tests.queueing import TOY, WAIT_S, ask, finished, opened_two, request, until
from vision_server.errors import CannotServe, CheckpointError
from vision_server.jobs import Outcome


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
