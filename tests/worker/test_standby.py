"""When a spare is started, kept and ended: each rule by itself, then any sequence of events under hypothesis."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vision_server.worker.life import Phase
from vision_server.worker.standby import LINGER_S, Standby, State

BUSY = (Phase.STARTING, Phase.READY, Phase.ENDING)


class Spares:
    """Plays the processes of a Standby; `settle` is what the runner does after every event."""

    def __init__(self, *, kept: bool = False, for_swaps: bool = False) -> None:
        self.now = 1000.0
        self.worker = Phase.GONE
        self.draining = False
        self.there = self.started = self.told_to_end = 0
        self.standby = Standby(self, kept=kept, for_swaps=for_swaps)

    def start_spare(self) -> None:
        assert self.there == 0, "two spares"
        self.there = 1
        self.started += 1

    def end_spare(self) -> None:
        assert self.there == 1
        self.told_to_end += 1

    def settle(self) -> None:
        self.standby.settle(self.worker, self.now, draining=self.draining)

    def becomes(self, worker: Phase) -> None:
        self.worker = worker
        self.settle()

    def expect(self) -> None:
        self.standby.expect()
        self.settle()

    def expect_no_longer(self) -> None:
        self.standby.expect_no_longer(self.now)
        self.settle()

    def take(self) -> bool:
        taken = self.standby.take()
        self.there -= taken
        self.becomes(Phase.STARTING)
        return taken

    def end(self) -> None:
        self.there = 0
        self.standby.on_end(self.now)
        self.settle()

    def advance(self, seconds: float) -> None:
        """Let time pass as a loop's timer would."""
        until = self.now + seconds
        while (due := self.standby.next_wakeup_s) is not None and due <= until:
            assert due >= self.now or self.standby.state is State.THERE
            self.now = max(self.now, due)
            self.settle()
            assert self.standby.next_wakeup_s != due, "a timer that does not move"
        self.now = until


def test_a_body_that_arrives_starts_one_and_the_worker_is_made_of_it() -> None:
    spares = Spares()
    spares.settle()
    assert spares.started == 0
    spares.expect()
    spares.expect()
    assert spares.started == 1
    spares.expect_no_longer()
    assert spares.take()
    assert (spares.there, spares.standby.state) == (0, State.NONE)
    spares.expect_no_longer()
    assert (spares.started, spares.told_to_end) == (1, 0)
    assert spares.standby.next_wakeup_s is None


@pytest.mark.parametrize("worker", BUSY)
def test_while_there_is_a_worker_nobody_starts_one(worker: Phase) -> None:
    spares = Spares()
    spares.becomes(worker)
    spares.expect()
    assert spares.started == 0
    spares.becomes(Phase.GONE)
    assert spares.started == 1, "the body still arrives"


def test_a_body_that_came_while_there_was_a_worker_starts_none_later() -> None:
    spares = Spares()
    spares.becomes(Phase.READY)
    spares.expect()
    spares.expect_no_longer()
    spares.becomes(Phase.GONE)
    assert spares.started == 0


def test_one_that_nobody_took_lingers_and_is_ended() -> None:
    spares = Spares()
    spares.expect()
    spares.advance(100)
    assert spares.told_to_end == 0, "the body still arrives"
    spares.expect_no_longer()
    spares.advance(LINGER_S / 2)
    spares.expect()
    spares.advance(LINGER_S)
    spares.expect_no_longer()
    spares.advance(LINGER_S - 0.1)
    assert spares.told_to_end == 0
    spares.advance(0.2)
    assert spares.told_to_end == 1
    assert not spares.standby.take()
    spares.end()
    spares.advance(100)
    assert (spares.started, spares.there) == (1, 0)


def test_one_that_is_wanted_again_while_it_leaves_is_replaced_at_its_end() -> None:
    spares = Spares()
    spares.expect()
    spares.expect_no_longer()
    spares.advance(LINGER_S)
    spares.expect()
    assert spares.started == 1
    spares.end()
    assert spares.started == 2


def test_one_that_dies_is_forgotten_until_the_next_body() -> None:
    spares = Spares()
    spares.expect()
    spares.end()
    spares.advance(1000)
    assert spares.started == 1
    spares.expect()
    assert spares.started == 2


def test_the_end_of_the_daemon_ends_it_and_there_is_no_other() -> None:
    for kept in (False, True):
        spares = Spares(kept=kept)
        spares.expect()
        spares.draining = True
        spares.settle()
        assert spares.told_to_end == 1
        spares.end()
        spares.expect()
        spares.advance(1000)
        assert spares.started == 1


class TestKept:
    def test_from_the_beginning_and_again_after_each_end_of_the_worker(self) -> None:
        spares = Spares(kept=True)
        spares.settle()
        assert spares.started == 1
        spares.advance(1000)
        assert spares.told_to_end == 0
        for turn in (2, 3):
            assert spares.take()
            for worker in BUSY:
                spares.becomes(worker)
                assert spares.there == 0
            spares.becomes(Phase.GONE)
            assert spares.started == turn

    def test_beside_a_worker_where_there_are_other_models_to_swap_to(self) -> None:
        spares = Spares(kept=True, for_swaps=True)
        spares.settle()
        assert spares.take()
        assert spares.started == 1, "it would take time from the load"
        spares.becomes(Phase.READY)
        assert spares.started == 2
        spares.becomes(Phase.ENDING)
        spares.becomes(Phase.GONE)
        assert spares.take()
        assert spares.started == 2

    def test_one_that_dies_is_replaced_more_and_more_rarely(self) -> None:
        spares = Spares(kept=True)
        spares.settle()
        starts_s: list[float] = []
        while len(starts_s) < 12:
            spares.end()
            assert spares.there == 0
            while not spares.there:
                spares.advance(0.5)
            starts_s.append(spares.now)
        gaps_s = [b - a for a, b in pairwise(starts_s)]
        assert gaps_s == sorted(gaps_s)
        assert (gaps_s[0], gaps_s[-1]) == (2.0, 60.0)
        spares.expect()
        assert spares.take()
        spares.becomes(Phase.GONE)
        spares.end()
        spares.advance(1.0)
        assert spares.there == 1, "the next one in a row is the first"


class SpareLife(RuleBasedStateMachine):
    spares: Spares

    @initialize(kept=st.booleans(), for_swaps=st.booleans())
    def begin(self, kept: bool, for_swaps: bool) -> None:
        self.kept, self.expected = kept, 0
        self.spares = Spares(kept=kept, for_swaps=for_swaps)
        self.spares.settle()

    @rule()
    def expect(self) -> None:
        self.expected += 1
        self.spares.expect()

    @rule()
    @precondition(lambda self: self.expected)
    def expect_no_longer(self) -> None:
        self.expected -= 1
        self.spares.expect_no_longer()

    @rule()
    @precondition(lambda self: self.spares.worker is Phase.GONE)
    def load(self) -> None:
        self.spares.take()

    @rule(worker=st.sampled_from(Phase))
    @precondition(lambda self: self.spares.worker is not Phase.GONE)
    def worker_becomes(self, worker: Phase) -> None:
        self.spares.becomes(worker)

    @rule()
    @precondition(lambda self: self.spares.there)
    def spare_ends(self) -> None:
        self.spares.end()

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.spares.advance(seconds)

    @rule()
    def drain(self) -> None:
        self.spares.draining = True
        self.spares.settle()

    @invariant()
    def it_knows_its_process(self) -> None:
        spares = self.spares
        assert (spares.standby.state is not State.NONE) == bool(spares.there)
        assert not (spares.draining and spares.standby.state is State.THERE)
        if not self.kept and not self.expected and spares.there:
            assert spares.standby.state is State.LEAVING or spares.standby.next_wakeup_s is not None

    @invariant()
    def whoever_waits_for_a_worker_is_helped(self) -> None:
        spares = self.spares
        if self.kept and spares.worker is Phase.GONE and not spares.draining:
            assert spares.there or spares.standby.next_wakeup_s is not None


TestSpareLife = SpareLife.TestCase
TestSpareLife.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
