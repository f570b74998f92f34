"""An engine's actor without Ray: answers, faults, engines that die; then the real engine on the bundled pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.bulk.making import SCENES
from vision_server.bulk.answering import Answerer, Answering
from vision_server.bulk.asking import asked
from vision_server.bulk.engines import Loading
from vision_server.bulk.ledger import Ledger, Limits
from vision_server.bulk.tables import WHOLE_FILE, Answered, Read, answered_rows, read_table
from vision_server.engine import Florence
from vision_server.errors import BadInput, BadSetting, CannotServe, LoadFailed
from vision_server.settings import Settings
from vision_server.worker.protocol import Done, Failed, Options, Run

ONE = asked(["caption"], "", (), Options())
LIMITS = Limits(alone=2, batch=4, in_a_row=6)


class Died(BaseException):
    """Stands for the end of the process."""


class Toy:
    """Answers a picture with its own bytes; `deadly` ones kill it."""

    def __init__(self, deadly: Sequence[bytes] = ()) -> None:
        self.deadly, self.asked = deadly, list[list[bytes]]()

    def ask(self, runs: Sequence[Run]) -> dict[int, Done | Failed]:
        self.asked.append([run.image for run in runs])
        if any(run.image in self.deadly for run in runs):
            raise Died
        return {run.id: self._outcome(run) for run in runs}

    def _outcome(self, run: Run) -> Done | Failed:
        if run.image == b"broken":
            return Failed(run.id, "bad_image", "It is broken.")
        if run.image == b"odd":
            return Failed(run.id, "internal", "The server's log has the details.")
        return Done(run.id, run.image.decode(), 8, 8, "stop", 1, 1, 0.0, 0.0, 0.0)


def row(name: str, prompts: Sequence[int] = (0,), **other: Any) -> Read:
    return Read(name, name, "part-a", 0, list(prompts), **{"data": name.encode(), **other})


def until_it_lives(load: Callable[[], Answerer], rows: list[Read], book: Ledger) -> list[Answered]:
    """As Ray does: a new actor gets the same batch, until one lives."""
    while True:
        try:
            return answered_rows(Answering(load, ONE, book)(read_table(rows)))
        except Died:
            pass


def told(rows: list[Answered]) -> dict[str, str | None]:
    return {one.picture: one.error or json.loads(one.result or "null") for one in rows}


def test_answers_faults_and_ends_keep_their_places() -> None:
    rows = [row("a"), row("broken"), row("odd"), row("gone", data=None, error="unreadable", message="It is gone.")]
    ends = [Read("", "", "part-a", of=3), Read("s.tar", "s.tar", "", of=9)]
    answered = answered_rows(Answering(Toy, ONE, Ledger(LIMITS))(read_table([*rows, *ends])))
    assert told([one for one in answered if one.of is None]) == {
        "a": "a", "broken": "bad_image", "odd": "internal", "gone": "unreadable",
    }  # fmt: skip
    assert [one.message for one in answered if one.error == "internal"] == ["The engine failed at this picture."]
    assert [(one.prompt, one.of) for one in answered if one.of is not None] == [(WHOLE_FILE, 3), (WHOLE_FILE, 9)]


def test_a_batch_without_a_question_loads_nothing() -> None:
    def load() -> Toy:
        raise AssertionError("there was nothing to ask")

    assert len(answered_rows(Answering(load, ONE, Ledger(LIMITS))(read_table([Read("", "", "part-a", of=3)])))) == 1


def test_a_picture_that_kills_is_given_up_and_its_neighbours_are_answered() -> None:
    toys: list[Toy] = []

    def load() -> Toy:
        toys.append(Toy([b"c"]))
        return toys[-1]

    book = Ledger(LIMITS)
    answered = until_it_lives(load, [row(name) for name in "abcd"], book)
    assert told(answered) == {"a": "a", "b": "b", "c": "worker_crash", "d": "d"}
    assert [toy.asked for toy in toys] == [
        [[b"a", b"b", b"c", b"d"]], [[b"a"], [b"b"], [b"c"]], [[b"c"]], [[b"d"]],
    ]  # fmt: skip
    assert book.deaths() == 3


def test_an_engine_that_is_killed_from_outside_costs_nobody_the_answer() -> None:
    toys = [Toy([b"b"]), Toy()]
    answered = until_it_lives(lambda: toys.pop(0), [row(name) for name in "abc"], Ledger(LIMITS))
    assert told(answered) == {"a": "a", "b": "b", "c": "c"}


def test_a_batch_of_many_that_kill_is_given_up_after_some() -> None:
    book = Ledger(LIMITS)
    answered = until_it_lives(lambda: Toy([b"b", b"c"]), [row(name) for name in "abcd"], book)
    assert told(answered) == {"a": "a", "b": "worker_crash", "c": "worker_crash", "d": "worker_crash"}
    assert book.deaths() == LIMITS.batch
    assert "beside it" in next(one.message or "" for one in answered if one.picture == "d")


def test_engines_that_always_die_end_the_run() -> None:
    def load() -> Toy:
        raise Died

    book = Ledger(Limits(alone=2, batch=4, in_a_row=6))
    answered = until_it_lives(load, [row("a")], book)
    assert told(answered) == {"a": "worker_crash"}
    with pytest.raises(CannotServe, match="died 6 times, one after the other"):
        until_it_lives(load, [row(name) for name in "bcd"], book)


def test_an_answer_between_starts_the_count_anew() -> None:
    book = Ledger(Limits(alone=2, batch=8, in_a_row=4))
    for number in range(5):
        answered = until_it_lives(lambda: Toy([b"k"]), [row("a"), row("k"), row(f"z{number}")], book)
        assert told(answered)["k"] == "worker_crash"
    assert book.deaths() == 15


@pytest.mark.parametrize("code", ["bad_option", "prompt_too_long", "bad_input"])
def test_a_question_that_no_picture_can_answer_ends_the_run(code: str) -> None:
    class Refusing(Toy):
        def _outcome(self, run: Run) -> Done | Failed:
            return Failed(run.id, code, "max_new_tokens must be less.")

    with pytest.raises(BadInput, match="must be less"):
        Answering(Refusing, ONE, Ledger(LIMITS))(read_table([row("a")]))


@pytest.mark.parametrize(
    ("prompts", "text", "said"),
    [
        (["nonsense"], "", "not known"),
        (["CAPTION"], "a car", "none of these prompts takes a text"),
        (["VQA"], "", "needs a text"),
        (["REGION_TO_OCR"], "here", "needs a region"),
    ],
)
def test_what_cannot_be_asked(prompts: list[str], text: str, said: str) -> None:
    with pytest.raises(BadSetting, match=said):
        asked(prompts, text, (), Options())


def test_a_text_goes_to_the_prompts_that_take_one_and_twins_are_one() -> None:
    made = asked(["od", "<OD>", "VQA", "<MINE>"], "how many?", ("<MINE>",), Options())
    assert made.prompts == ("<OD>", "<VQA>", "<MINE>")
    assert made.texts == ("", "how many?", "how many?")
    assert asked(["REGION_TO_OCR"], "<loc_1><loc_2><loc_30><loc_40>", (), Options()).texts[0].startswith("<loc_1>")


def test_the_embedded_checkpoint_looks_once_at_a_picture_with_two_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    look = Florence._look

    def counting(self: Florence, pictures: Any) -> Any:
        looked.append(len(pictures))
        return look(self, pictures)

    monkeypatch.setattr(Florence, "_look", counting)
    both = asked(["CAPTION", "OD"], "", (), Options())
    load = Loading(Settings(model="demo", dtype="float32"), "cpu", None, 1, several=True)
    rows = [row(path.name, (0, 1), data=path.read_bytes()) for path in SCENES[:3]]
    rows += [row("broken.png", (0, 1), data=b"\x89PNG broken"), row("again", (1,), data=SCENES[0].read_bytes())]
    answering = Answering(load, both, Ledger(LIMITS))
    answered = answered_rows(answering(read_table(rows)))
    assert sum(looked) == 3
    assert [one.error for one in answered if one.picture == "broken.png"] == ["bad_image", "bad_image"]
    results = {(one.picture, one.prompt): json.loads(one.result or "null") for one in answered}
    assert results["again", 1] == results[SCENES[0].name, 1]
    assert set(results["again", 1]) == {"bboxes", "labels"}
    assert all(isinstance(results[path.name, 0], str) for path in SCENES[:3])
    assert len(answered_rows(answering(read_table(rows[:1])))) == 2, "the same engine answers the next batch"


def test_a_checkpoint_that_does_not_load_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: object, **kwargs: object) -> Florence:
        raise ValueError("bad")

    monkeypatch.setattr(Florence, "load", load)
    loading = Loading(Settings(model="demo"), "cpu", None, 1, several=False)
    with pytest.raises(LoadFailed, match="could not be loaded"):
        Answering(loading, ONE, Ledger(LIMITS))(read_table([row("a")]))
