"""What may be here at once, how often one may ask, and when to come back: under a clock that is handed in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_server.errors import TooManyRequests
from vision_server.quotas import MAX_BUCKETS, ByteBudget, ClientQuotas, Pace

BUSY_S = 7.0
TIMES = st.lists(st.floats(0, 200), max_size=300).map(sorted)


def pace(completed_s: list[float]) -> Pace:
    made = Pace()
    for at_s in completed_s:
        made.note_completion(at_s)
    return made


class TestRetryAfter:
    def test_waiting_over_the_rate(self) -> None:
        assert pace([float(at_s) for at_s in range(20)]).retry_after_s(40, 20.0, 99) == 40
        assert pace([at_s / 10 for at_s in range(200)]).retry_after_s(40, 20.0, 99) == 4

    def test_only_the_last_minute_counts(self) -> None:
        assert pace([0.0, 1.0, 2.0, 90.0]).retry_after_s(3, 100.0, 99) == 30
        assert pace([0.0, 1.0, 2.0]).retry_after_s(3, 100.0, 17) == 17

    @given(TIMES, st.integers(0, 100_000), st.floats(0, 100), st.floats(0, 1e6))
    def test_it_is_a_whole_number_from_1_to_120_and_no_less_for_more_who_wait(
        self, completed_s: list[float], waiting: int, later_s: float, unknown_s: float
    ) -> None:
        made, now = pace(completed_s), max(completed_s, default=0.0) + later_s
        told = made.retry_after_s(waiting, now, unknown_s)
        assert isinstance(told, int)
        assert 1 <= told <= 120
        assert made.retry_after_s(waiting + 1, now, unknown_s) >= told

    @given(st.integers(1, 200), st.floats(1, 50), st.integers(0, 200))
    def test_whoever_comes_back_then_finds_the_waiting_done_at_that_rate(
        self, completed: int, seconds: float, waiting: int
    ) -> None:
        told = pace([seconds * i / completed for i in range(completed)]).retry_after_s(waiting, seconds, 99)
        done_s = waiting * seconds / completed
        assert told in [min(max(1, ceil(done_s + rounding_s)), 120) for rounding_s in (-1e-9, 1e-9)]


class TestBytes:
    def test_what_does_not_fit_changes_nothing(self) -> None:
        budget = ByteBudget(100)
        assert budget.take(60)
        assert not budget.take(41)
        assert budget.take(40)
        assert budget.used_bytes == 100
        assert budget.take(0)
        assert budget.take(0, instead_of_bytes=60)
        assert budget.used_bytes == 40

    def test_one_that_is_alone_may_be_larger(self) -> None:
        budget = ByteBudget(100)
        assert budget.take(5000)
        assert not budget.take(1)
        assert budget.take(6000, instead_of_bytes=5000)
        assert budget.take(10, instead_of_bytes=6000)
        assert budget.take(90)
        assert not budget.take(101, instead_of_bytes=90)

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 150), st.integers(0, 9)), max_size=60))
    def test_it_is_never_over_unless_one_alone_is(self, steps: list[tuple[bool, int, int]]) -> None:
        budget, held = ByteBudget(100), dict.fromkeys(range(10), 0)
        for grows, size, who in steps:
            wanted = size if grows else min(size, held[who])
            if budget.take(wanted, instead_of_bytes=held[who]):
                held[who] = wanted
            assert budget.used_bytes == sum(held.values())
            assert budget.used_bytes <= 100 or max(held.values()) > 100 or sum(map(bool, held.values())) == 1


def ask(quotas: ClientQuotas, now: float, client: str = "a") -> bool:
    """Come and leave at once; whether it was let in."""
    try:
        with quotas.hold(client, now, BUSY_S):
            return True
    except TooManyRequests:
        return False


def refusal(quotas: ClientQuotas, now: float, client: str = "a") -> TooManyRequests:
    with pytest.raises(TooManyRequests) as caught, quotas.hold(client, now, BUSY_S):
        pass
    return caught.value


class TestClients:
    def test_without_limits_nothing_is_remembered(self) -> None:
        quotas = ClientQuotas(0, 0)
        with ExitStack() as stack:
            for _ in range(1000):
                stack.enter_context(quotas.hold("a", 0.0, BUSY_S))
        assert len(quotas) == 0

    def test_so_many_at_once_and_each_client_for_itself(self) -> None:
        quotas = ClientQuotas(2, 0)
        with quotas.hold("a", 0.0, BUSY_S), quotas.hold("b", 0.0, BUSY_S):
            with quotas.hold("a", 0.0, BUSY_S):
                assert refusal(quotas, 0.0).retry_after_s == BUSY_S
                assert ask(quotas, 0.0, "b")
            assert ask(quotas, 0.0)
        assert len(quotas) == 0

    def test_one_that_fails_inside_has_left_too(self) -> None:
        quotas = ClientQuotas(1, 0)
        with pytest.raises(ZeroDivisionError), quotas.hold("a", 0.0, BUSY_S):
            raise ZeroDivisionError
        assert ask(quotas, 0.0)

    def test_the_refused_at_once_pay_no_token(self) -> None:
        quotas = ClientQuotas(1, 3)
        with quotas.hold("a", 0.0, BUSY_S):
            for _ in range(10):
                assert refusal(quotas, 0.0).retry_after_s == BUSY_S
        assert [ask(quotas, 0.0) for _ in range(3)] == [True, True, False]

    def test_a_minutes_requests_at_once_and_then_one_after_the_other(self) -> None:
        quotas = ClientQuotas(0, 6)
        assert [ask(quotas, 100.0) for _ in range(7)] == [True] * 6 + [False]
        assert refusal(quotas, 100.0).retry_after_s == pytest.approx(10)
        assert refusal(quotas, 104.0).retry_after_s == pytest.approx(6)
        assert [ask(quotas, 110.0) for _ in range(2)] == [True, False]
        assert ask(quotas, 100.0, "b")

    @given(st.integers(1, 50), st.lists(st.floats(0, 20), min_size=1, max_size=50), st.floats(0, 1e7))
    def test_the_retry_after_is_exact(self, per_min: int, gaps_s: list[float], start_s: float) -> None:
        quotas, now = ClientQuotas(0, per_min), start_s
        for gap_s in gaps_s:
            now += gap_s
            while ask(quotas, now):
                pass
            told_s = refusal(quotas, now).retry_after_s
            assert told_s is not None
            assert 0 < told_s <= 60 / per_min + 1e-6
            assert not ask(quotas, now + told_s - 1e-3)
            now += told_s
            assert ask(quotas, now)

    @given(st.integers(1, 30), st.lists(st.floats(0, 30), min_size=1, max_size=300))
    def test_never_more_in_any_span_than_the_bucket_and_the_rate(self, per_min: int, gaps_s: list[float]) -> None:
        quotas, now, let_in = ClientQuotas(0, per_min), 0.0, list[float]()
        for gap_s in gaps_s:
            now += gap_s
            if ask(quotas, now):
                let_in.append(now)
        for first, since_s in enumerate(let_in):
            for last in range(first, len(let_in)):
                assert last - first + 1 <= per_min * (1 + (let_in[last] - since_s) / 60) + 1e-3


class TestMemory:
    """Thousands of addresses must not make it grow for ever."""

    def come(self, quotas: ClientQuotas, count: int, at_s: Callable[[int], float]) -> int:
        most = 0
        for i in range(count):
            assert ask(quotas, at_s(i), f"client {i}")
            most = max(most, len(quotas._full_at_s))
        return most

    def test_who_asked_a_minute_ago_is_forgotten(self) -> None:
        quotas = ClientQuotas(3, 10)
        assert self.come(quotas, 5000, lambda i: i * 0.1) <= 601
        assert ask(quotas, 10_000.0)
        assert len(quotas) == 1

    def test_the_addresses_of_one_moment_have_a_bound(self) -> None:
        quotas = ClientQuotas(3, 10)
        assert self.come(quotas, MAX_BUCKETS + 500, lambda i: 5.0) <= MAX_BUCKETS
