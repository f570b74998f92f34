from __future__ import annotations

import pytest

from vision_server.errors import UnknownPrompt
from vision_server.tasks import STOCK, TASKS, find, literal, lookup, of_token

PROMPTGEN = {
    "<GENERATE_TAGS>",
    "<MIXED_CAPTION>",
    "<MIX_CAPTION>",
    "<MIXED_CAPTION_PLUS>",
    "<MIX_CAPTION_PLUS>",
    "<ANALYZE>",
    "<GENERATE_PROMPT>",
}
QUESTIONS = {"<VQA>", "<DocVQA>", "<DESCRIPTION>"}


def test_the_rows() -> None:
    tokens = [task.token for task in TASKS]
    assert len(tokens) == len(set(tokens)) == 25
    assert set(tokens) == set(STOCK) | PROMPTGEN | QUESTIONS
    assert len(STOCK) == 15


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.token)
def test_each_row_holds_together(task: object) -> None:
    row = next(row for row in TASKS if row is task)
    assert row.token.startswith("<")
    assert row.token.endswith(">")
    assert ("{input}" in row.sentence) == (row.input != "none")
    assert row.sentence.count("{input}") <= 1
    assert row.explanation.endswith(".")
    if row.token in PROMPTGEN | QUESTIONS:
        assert row.sentence.removesuffix("{input}") == row.token
        assert row.answer == "text"
    assert bool(row.fields) == (row.token in PROMPTGEN)
    for name in (row.token, row.token.lower(), row.token[1:-1], row.token[1:-1].title(), f" {row.token} "):
        assert find(name) is row


@pytest.mark.parametrize("name", ["", "<>", "CAPTIONS", "describe the image", "<CAPTION> a", "detailed caption"])
def test_no_row(name: str) -> None:
    assert find(name) is None


def test_a_token_of_a_fine_tune_keeps_its_letters() -> None:
    task = literal("<MyTask>")
    assert (task.token, task.sentence, task.input, task.answer) == (
        "<MyTask>",
        "<MyTask>{input}",
        "optional_text",
        "text",
    )
    assert lookup("mytask", ["<MyTask>"]) == task
    assert of_token("<MyTask>") == task


def test_the_checkpoint_s_own_spelling_wins() -> None:
    own = lookup("VQA", ["<vqa>", "<CAPTION>"])
    assert own.token == "<vqa>"
    assert of_token(own.token) == own
    assert lookup("VQA").token == "<VQA>"


@pytest.mark.parametrize("token", ["<OD>", "<DocVQA>", "<MIX_CAPTION>"])
def test_rows_are_found_from_the_checkpoint_s_prompts(token: str) -> None:
    assert lookup(token.lower(), [token]) is find(token)
    assert lookup(token.lower()) is find(token)
    assert of_token(token) is find(token)


def test_an_unknown_prompt_lists_the_known_ones() -> None:
    with pytest.raises(UnknownPrompt, match="<CAPTION>, <MyTask>"):
        lookup("nonsense", ["<CAPTION>", "<MyTask>"])
    with pytest.raises(UnknownPrompt, match="<OCR_WITH_REGION>"):
        lookup("nonsense")
