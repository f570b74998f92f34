"""Who is let into the queue, for how many bytes and for how long: real worker processes without a model."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.queueing import TOY, WAIT_S, ask, finished, opened, opened_two, request, until
from vision_server.errors import CannotServe, DeadlinePassed, QueueFull
from vision_server.jobs import Outcome, Queue

MIB = 1 << 20


async def leave(*asked: asyncio.Task[Outcome]) -> None:
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


def let_in(queue: Queue, expected_bytes: int = 0) -> bool:
    """Come and leave at once; whether it was admitted."""
    try:
        with queue.admit(expected_bytes):
            return True
    except QueueFull:
        return False


class TestPlaces:
    async def test_exactly_the_capacity_while_loading(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with opened("--load", "slow", "--gate", str(gate), max_queue=16) as queue:
            asked = [ask(queue, str(i)) for i in range(1000)]
            await until(lambda: sum(task.done() for task in asked) == 984)
            assert (queue.depth, queue.capacity) == (16, 16)
            with pytest.raises(QueueFull) as caught:
                await queue.submit(request())
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

    async def test_those_whose_body_arrives_take_places(self) -> None:
        async with opened(max_queue=3) as queue:
            with ExitStack() as stack:
                for _ in range(3):
                    stack.enter_context(queue.admit(10))
                assert not let_in(queue)
                assert (queue.depth, queue.status().arriving) == (0, 3)
                with pytest.raises(QueueFull):
                    await queue.submit(request())
            assert queue.status().arriving == 0
            await finished(ask(queue))

    async def test_the_slots_that_are_free_are_places_too(self) -> None:
        async with opened("--slots", "2", max_queue=3) as queue:
            await queue.load(TOY)
            held = ask(queue, "hold")
            await until(lambda: queue.in_flight == 1)
            with ExitStack() as stack:
                for _ in range(4):
                    stack.enter_context(queue.admit(0))
                assert not let_in(queue)
            await leave(held)

    async def test_places_that_were_free_slots_are_counted_again(self, tmp_path: Path) -> None:
        """The worker is released while two bodies arrive, so that there is one place only when they are here."""
        gate = tmp_path / "gate"
        async with opened("--load", "slow", "--gate", str(gate), "--slots", "2", max_queue=1) as queue:
            gate.touch()
            await queue.load(TOY)
            with queue.admit(0) as first, queue.admit(0) as second:
                await queue.unload()
                gate.unlink()
                asked = [asyncio.create_task(queue.submit(request(), place)) for place in (first, second)]
                await until(lambda: asked[1].done())
                assert isinstance(asked[1].exception(), QueueFull)
                gate.touch()
                await finished(asked[0])

    async def test_those_who_only_want_the_model_have_a_bound_too(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with opened("--load", "slow", "--gate", str(gate), max_queue=2) as queue:
            loads = [asyncio.create_task(queue.load(TOY)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(QueueFull):
                await queue.load(TOY)
            asked = ask(queue)
            gate.touch()
            await asyncio.wait_for(asyncio.gather(*loads), WAIT_S)
            await finished(asked)

    async def test_nobody_is_admitted_after_the_end_has_begun(self) -> None:
        async with opened() as queue:
            with queue.admit(0) as place:
                await queue.drain()
                with pytest.raises(CannotServe):
                    await queue.submit(request(), place)
                with pytest.raises(CannotServe), queue.admit(0):
                    pass


class TestBytes:
    async def test_bodies_that_arrive_and_pictures_that_are_here(self) -> None:
        async with opened("--slots", "1", max_queue_bytes=10 * MIB) as queue:
            with queue.admit(6 * MIB) as place:
                assert not let_in(queue, 4 * MIB + 1)
                assert let_in(queue, 4 * MIB)
                held = asyncio.create_task(queue.submit(request("hold"), place))  # its picture is 7 bytes long
                await until(lambda: queue.in_flight == 1)
                assert queue.status().queue_bytes == 7
                assert let_in(queue, 10 * MIB - 7)
                assert not let_in(queue, 10 * MIB)
                await leave(held)
            assert queue.status().queue_bytes == 0
            assert queue.status().queue_capacity_bytes == 10 * MIB

    async def test_the_refusal_says_when_to_come_back(self) -> None:
        async with opened(max_queue_bytes=MIB) as queue:
            with queue.admit(MIB), pytest.raises(QueueFull, match="all 1 MiB") as caught, queue.admit(1):
                pass
            assert caught.value.retry_after_s
            assert 1 <= caught.value.retry_after_s <= 120

    async def test_one_that_is_alone_may_be_larger_than_all_there_is(self) -> None:
        async with opened(max_queue_bytes=3) as queue:
            await finished(ask(queue))
            with queue.admit(0):
                await finished(ask(queue))
            with queue.admit(1), pytest.raises(QueueFull):
                await queue.submit(request())

    async def test_whatever_becomes_of_a_request_its_bytes_come_back(self) -> None:
        async with opened("--slots", "1", max_queue_bytes=1000, step_stall_timeout_s=WAIT_S) as queue:
            await queue.load(TOY)
            asked = [ask(queue, text) for text in ("", "bad", "crash", "hold", "queued")]
            await asyncio.wait([asked[0], asked[1], asked[2]], timeout=WAIT_S)
            await until(lambda: queue.in_flight == 1)
            assert queue.status().queue_bytes == 14
            await leave(asked[4])
            assert queue.status().queue_bytes == 7
            await leave(asked[3])
            with pytest.raises(ZeroDivisionError), queue.admit(900):
                raise ZeroDivisionError
            assert (queue.status().queue_bytes, queue.status().arriving) == (0, 0)


class TestRetryAfter:
    async def test_retry_after_follows_the_rate(self) -> None:
        async with opened("--slots", "1") as queue:
            await finished(*(ask(queue) for _ in range(100)))
            held = [ask(queue, "hold") for _ in range(41)]
            await until(lambda: queue.depth == 40)
            assert queue.retry_after_s() == 1
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)

    async def test_those_who_arrive_are_waited_for_too(self) -> None:
        async with opened("--slots", "1") as queue:
            await finished(ask(queue))
            with ExitStack() as stack:
                before_s = queue.retry_after_s()
                for _ in range(200):
                    stack.enter_context(queue.admit(0))
                assert queue.retry_after_s() == 120 > before_s


class TestDeadline:
    async def test_it_is_counted_from_admission_and_not_from_the_end_of_the_body(self) -> None:
        async with opened(request_timeout_s=5.0) as queue:
            with queue.admit(0) as place:
                place.since_s -= 5.0  # its body took so long
                with pytest.raises(DeadlinePassed):
                    await asyncio.wait_for(queue.submit(request("hold"), place), WAIT_S)
                assert queue.status().loads == 0, "it did not wait for its turn"

    async def test_while_a_download_goes_on_it_does_not_come_nearer(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with opened("--load", "download", "--gate", str(gate), request_timeout_s=60.0) as queue:
            first = ask(queue)
            await until(lambda: queue.status().load_phase == "download")
            with queue.admit(0) as place:
                place.since_s -= 60.0
                slow = asyncio.create_task(queue.submit(request(), place))
                await until(lambda: queue.depth == 2)
                gate.touch()
                await finished(first, slow)

    async def test_the_one_whose_body_took_longest_is_late_first(self) -> None:
        async with opened("--slots", "1", request_timeout_s=60.0) as queue:
            await queue.load(TOY)
            held, other = ask(queue, "hold"), ask(queue, "other")
            await until(lambda: (queue.in_flight, queue.depth) == (1, 1))
            with queue.admit(0) as place:
                place.since_s -= 60.0
                with pytest.raises(DeadlinePassed):
                    await asyncio.wait_for(queue.submit(request("late"), place), WAIT_S)
            assert not other.done()
            await leave(held)
            await finished(other)


class TestPosition:
    async def test_everybody_finds_their_place(self) -> None:
        async with opened("--slots", "1") as queue:
            await queue.load(TOY)
            asked = [ask(queue, text) for text in ("hold", "first", "second", "third")]
            await until(lambda: queue.depth == 3)
            status = queue.status()
            assert status.in_flight_ids == ("r-hold",)
            assert [(one.request_id, one.position) for one in status.queue] == [
                ("r-first", 1),
                ("r-second", 2),
                ("r-third", 3),
            ]
            assert all(one.model == TOY and 0 <= one.waits_s < WAIT_S for one in status.queue)
            [mine] = queue.status("r-third").queue
            assert mine.position == 3
            assert queue.status("r-hold").queue == queue.status("nobody").queue == ()
            await leave(asked[1])
            assert [one.position for one in queue.status("r-third").queue] == [2]
            await leave(*asked)

    async def test_a_hundred_are_shown_and_the_others_are_found_by_their_id(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with opened("--load", "slow", "--gate", str(gate), "--slots", "150") as queue:
            asked = [ask(queue, str(i)) for i in range(150)]
            await until(lambda: queue.depth == 150)
            assert [one.request_id for one in queue.status().queue] == [f"r-{i}" for i in range(100)]
            assert [one.position for one in queue.status("r-149").queue] == [150]
            gate.touch()
            await finished(*asked)

    async def test_the_retried_go_first_and_other_models_by_arrival(self, tmp_path: Path) -> None:
        async with opened_two("--slots", "2") as queue:
            await queue.load(TOY, keep_alive_s=-1)
            asked = [ask(queue, "hold"), ask(queue, f"once:{tmp_path / 'done'}:crash"), ask(queue, "c", model="other")]
            asked.append(ask(queue, "d"))
            await until(lambda: queue.status().restarts == 1 and queue.in_flight == 1)
            status = queue.status()
            assert status.in_flight_ids == ("r-hold",)
            assert [(one.request_id, one.model) for one in status.queue] == [
                ("r-once:" + str(tmp_path)[:1], TOY),
                ("r-c", "other"),
                ("r-d", TOY),
            ]
            await leave(*asked)
