from __future__ import annotations

from typing import Any

import pytest

from vision_server.errors import BadInput, PromptTooLong, VisionError
from vision_server.tasks import TASKS, Task, check_input, find, literal, sentence
from vision_server.tasks.sentences import MAX_TEXT_CHARS

SIZE = (640, 480)
REGION = [64, 48, 320, 480]
LOCATIONS = "<loc_100><loc_100><loc_500><loc_999>"

SENTENCES = [
    ("<CAPTION>", "What does the image describe?"),
    ("<DETAILED_CAPTION>", "Describe in detail what is shown in the image."),
    ("<MORE_DETAILED_CAPTION>", "Describe with a paragraph what is shown in the image."),
    ("<OCR>", "What is the text in the image?"),
    ("<OCR_WITH_REGION>", "What is the text in the image, with regions?"),
    ("<OD>", "Locate the objects with category name in the image."),
    ("<DENSE_REGION_CAPTION>", "Locate the objects in the image, with their descriptions."),
    ("<REGION_PROPOSAL>", "Locate the region proposals in the image."),
    ("<CAPTION_TO_PHRASE_GROUNDING>", "Locate the phrases in the caption: a {car}"),
    ("<REFERRING_EXPRESSION_SEGMENTATION>", "Locate a {car} in the image with mask"),
    ("<REGION_TO_SEGMENTATION>", f"What is the polygon mask of region {LOCATIONS}"),
    ("<OPEN_VOCABULARY_DETECTION>", "Locate a {car} in the image."),
    ("<REGION_TO_CATEGORY>", f"What is the region {LOCATIONS}?"),
    ("<REGION_TO_DESCRIPTION>", f"What does the region {LOCATIONS} describe?"),
    ("<REGION_TO_OCR>", f"What text is in the region {LOCATIONS}?"),
    ("<GENERATE_TAGS>", "<GENERATE_TAGS>"),
    ("<MIXED_CAPTION>", "<MIXED_CAPTION>"),
    ("<MIXED_CAPTION_PLUS>", "<MIXED_CAPTION_PLUS>"),
    ("<MIX_CAPTION>", "<MIX_CAPTION>"),
    ("<MIX_CAPTION_PLUS>", "<MIX_CAPTION_PLUS>"),
    ("<ANALYZE>", "<ANALYZE>"),
    ("<GENERATE_PROMPT>", "<GENERATE_PROMPT>"),
    ("<VQA>", "<VQA>a {car}"),
    ("<DocVQA>", "<DocVQA>a {car}"),
    ("<DESCRIPTION>", "<DESCRIPTION>a {car}"),
]


def row(token: str) -> Task:
    task = find(token)
    assert task
    return task


def its_input(task: Task) -> tuple[str, Any]:
    return (" a {car}\n" if task.input == "text" else "", REGION if task.input == "region" else None)


def test_the_table_covers_the_registry() -> None:
    assert [token for token, _ in SENTENCES] == [task.token for task in TASKS]


@pytest.mark.parametrize(("token", "expected"), SENTENCES)
def test_each_task(token: str, expected: str) -> None:
    task = row(token)
    text, region = its_input(task)
    check_input(task, text, region)
    assert sentence(task, text, region, SIZE) == expected


def test_a_fine_tune_s_token_with_and_without_text() -> None:
    assert sentence(literal("<MyTask>"), "", None, SIZE) == "<MyTask>"
    assert sentence(literal("<MyTask>"), "What is here: <loc_5>?", None, SIZE) == "<MyTask>What is here: <loc_5>?"


WRONG: dict[str, list[tuple[str, Any, str]]] = {
    "none": [("a car", None, "takes no text"), ("", REGION, "takes no region")],
    "text": [("", None, "needs a text"), (" \n", None, "needs a text"), ("a car", REGION, "takes no region")],
    "region": [("", None, "needs a region"), ("", " ", "needs a region"), ("a car", REGION, "takes no text")],
    "optional_text": [("a car", REGION, "takes no region")],
}


@pytest.mark.parametrize("task", [*TASKS, literal("<MyTask>")], ids=lambda task: task.token)
def test_inputs_missing_or_superfluous(task: Task) -> None:
    for text, region, says in WRONG[task.input]:
        with pytest.raises(BadInput, match=f"{task.token} {says}"):
            check_input(task, text, region)
        with pytest.raises(BadInput, match=f"{task.token} {says}"):
            sentence(task, text, region, SIZE)


@pytest.mark.parametrize("region", [LOCATIONS, "64,48,320,480", "[64,48,320,480]"])
def test_a_region_as_text_of_a_form(region: str) -> None:
    assert sentence(row("<REGION_TO_CATEGORY>"), "", region, SIZE) == f"What is the region {LOCATIONS}?"


def test_a_region_as_the_text_input() -> None:
    assert sentence(row("<REGION_TO_CATEGORY>"), f" {LOCATIONS} ", None, SIZE) == f"What is the region {LOCATIONS}?"
    assert sentence(row("<REGION_TO_CATEGORY>"), "", LOCATIONS, SIZE) == f"What is the region {LOCATIONS}?"
    with pytest.raises(BadInput, match="cannot be read"):
        sentence(row("<REGION_TO_CATEGORY>"), LOCATIONS + "<loc_1>", None, SIZE)


def test_only_the_picture_tells_that_a_region_is_outside() -> None:
    outside = [0, 0, 641, 480]
    check_input(row("<REGION_TO_OCR>"), "", outside)
    with pytest.raises(BadInput, match="outside"):
        sentence(row("<REGION_TO_OCR>"), "", outside, SIZE)


@pytest.mark.parametrize("mark", ["<s>", "</s>", "<pad>", "<mask>", "<image>", "<loc_7>", "<sep>", "</poly>", "<od>"])
@pytest.mark.parametrize("token", ["<CAPTION_TO_PHRASE_GROUNDING>", "<VQA>"])
def test_the_model_s_own_marks_are_refused(token: str, mark: str) -> None:
    with pytest.raises(BadInput, match=mark):
        check_input(row(token), f"a car {mark}", None)


def test_a_fine_tune_takes_locations_but_no_other_mark() -> None:
    with pytest.raises(BadInput, match="</s>"):
        check_input(literal("<MyTask>"), "<loc_1></s>", None)


@pytest.mark.parametrize("prompt", ["<CAPTION>", "<caption>", "<DocVQA>", "<OPEN_VOCABULARY_DETECTION>"])
def test_a_second_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(BadInput, match=prompt):
        check_input(row("<OPEN_VOCABULARY_DETECTION>"), f"{prompt}a car", None)


@pytest.mark.parametrize(
    "text", ["a < b", "<3", "<b>bold</b>", "loc_1", "{input}", "%s \\1", "犬 café 😀", "line\nbreak"]
)
def test_other_text_is_sent_as_it_is(text: str) -> None:
    assert sentence(row("<OPEN_VOCABULARY_DETECTION>"), text, None, SIZE) == f"Locate {text} in the image."


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(BadInput, match="Unicode"):
        check_input(row("<VQA>"), "a \ud83d", None)


def test_too_long_a_text() -> None:
    check_input(row("<VQA>"), "x" * MAX_TEXT_CHARS, None)
    with pytest.raises(PromptTooLong, match="16,385 characters"):
        check_input(row("<VQA>"), "x" * (MAX_TEXT_CHARS + 1), None)


def test_every_refusal_is_the_client_s_to_mend() -> None:
    for text, region in (("<loc_1>", None), ("", [1]), ("x" * 99_999, None)):
        with pytest.raises(VisionError) as caught:
            check_input(row("<VQA>"), text, region)
        assert caught.value.status == 400
