"""The prompts that the nodes offer, and when the server is asked for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from vision_server.tasks import STOCK, TASKS


@pytest.fixture
def prompts(part: Callable[[str], Any]) -> Any:
    return part("prompts")


def test_the_stock_is_the_servers(prompts: Any) -> None:
    rows = {task.token: task for task in TASKS}
    assert [(one.token, one.places) for one in prompts.STOCK] == [
        (token, rows[token].answer != "text") for token in STOCK
    ]


def test_it_is_asked_again_after_a_while_and_what_was_known_stays(part: Callable[[str], Any], prompts: Any) -> None:
    asked, now_s = [0], [100.0]
    answers: list[Any] = [[prompts.Prompt("<A>", False)], None, [prompts.Prompt("<B>", False)]]

    def ask() -> Any:
        asked[0] += 1
        if (answer := answers.pop(0)) is None:
            raise part("server").VisionServerError("away")
        return answer

    listed = prompts.PromptList(ask, lambda: now_s[0])
    seen = []
    for passed_s in (0, 1, 1, 2, 2, 2):
        now_s[0] += passed_s
        seen.append((listed.tokens(False), asked[0]))
    assert seen == [(["<A>"], 1)] * 3 + [(["<A>"], 2)] * 2 + [(["<B>"], 3)]
    assert listed.tokens(True) == [one.token for one in prompts.STOCK if one.places]


def test_a_server_that_is_away_leaves_the_stock(prompts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISION_HOST", "127.0.0.1:9")
    listed = prompts.PromptList(prompts.of_the_usual_server)
    assert listed.tokens(False) == [one.token for one in prompts.STOCK if not one.places]


def test_a_server_that_is_slow_is_not_waited_for(prompts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is shown to the next who looks."""
    monkeypatch.setattr(prompts, "_WAIT_S", 0.01)
    gate, now_s = threading.Event(), [0.0]

    def ask() -> Any:
        assert gate.wait(60)
        return [prompts.Prompt("<LATE>", False)]

    listed = prompts.PromptList(ask, lambda: now_s[0])
    assert "<CAPTION>" in listed.tokens(False)
    asking = listed._asking
    gate.set()
    asking.join(60)
    assert listed.tokens(False) == ["<LATE>"]


@pytest.mark.parametrize("answer", [{}, [1], [{"token": "<A>"}], "text"])
def test_what_no_vision_server_says_is_a_fault(
    part: Callable[[str], Any], prompts: Any, stub: Any, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    monkeypatch.setenv("VISION_HOST", stub(lambda *_: (200, {}, answer)).url)
    with pytest.raises(part("server").VisionServerError, match="no vision-server"):
        prompts.of_the_usual_server()


def test_a_kind_of_which_none_is_advised_is_offered_whole(
    prompts: Any, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = [{"token": task.token, "answer": task.answer} for task in TASKS]

    def reply(path: str, *_: Any) -> tuple[int, dict[str, str], Any]:
        return 200, {}, every if "all" in path else ["<CAPTION>", "<GENERATE_TAGS>"]

    monkeypatch.setenv("VISION_HOST", stub(reply).url)
    listed = prompts.of_the_usual_server()
    assert [one.token for one in listed if not one.places] == ["<CAPTION>", "<GENERATE_TAGS>"]
    assert [one.token for one in listed if one.places] == [task.token for task in TASKS if task.answer != "text"]
