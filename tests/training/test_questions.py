"""Questions with an input: their grammar, their answers by hand, and that each means one thing alone."""

import re
from collections import Counter
from dataclasses import replace

import pytest

from tests.training.test_truth import BY_HAND, CAR_BOX, SCENES, SIGN_BOX, UMBRELLA_BOX
from vision_server.outlines import polygon_iou
from vision_server.tasks import TASKS, answer, check_input, of_token, shapes
from vision_server.tasks.regions import overlap
from vision_server.training.questions import PROMPTS, Question, ask
from vision_server.training.scenes import Sign
from vision_server.training.truth import label, look, outline, things

ASKING = [task for task in TASKS if task.input != "none"]
BOXES = {"car": CAR_BOX, "sign": SIGN_BOX, "umbrella": UMBRELLA_BOX}


def test_every_task_of_the_registry_can_be_asked() -> None:
    assert set(PROMPTS) == {task.token for task in TASKS}
    assert len(PROMPTS) == len(TASKS)


@pytest.mark.parametrize("token", PROMPTS)
def test_a_question_is_the_scenes_own_and_fits_its_task(token: str) -> None:
    for one in SCENES[:100]:
        question = ask(one, token)
        assert ask(one, token) == question
        check_input(of_token(token), question.text, question.region)
        if question.region is not None:
            assert 0 <= min(question.region)
            assert max(question.region) <= one.size_px


def asked_by_hand(token: str) -> set[Question]:
    """Every question that chance may ask of the scene made by hand."""
    return {ask(replace(BY_HAND, seed=seed), token) for seed in range(200)}


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (
            "<OPEN_VOCABULARY_DETECTION>",
            {word: word + BOXES[word.split()[-1]] for word in ("car", "sign", "umbrella")}
            | {"black car": f"black car{CAR_BOX}", "white sign": f"white sign{SIGN_BOX}"}
            | {"red umbrella": f"red umbrella{UMBRELLA_BOX}"},
        ),
        (
            "<DESCRIPTION>",
            {
                "car": "small black car, bottom right",
                "sign": "white sign, centre",
                "umbrella": "large red umbrella, top left",
            },
        ),
        (
            "<DocVQA>",
            {
                "What does the sign say?": "CAFE",
                "What is the first letter?": "C",
                "How many letters are there?": "four",
                "What colour is the sign?": "white",
            },
        ),
    ],
)
def test_the_answers_of_a_scene_made_by_hand(token: str, expected: dict[str, str]) -> None:
    assert {question.text: question.truth for question in asked_by_hand(token)} == expected


def test_questions_about_the_picture_by_hand() -> None:
    said = {question.text: question.truth for question in asked_by_hand("<VQA>")}
    assert said["How many things are there?"] == "three"
    assert said["What is the background?"] == "striped blue"
    assert said["Is there an umbrella?"] == "yes"
    assert {said.get(f"Is there a {kind}?", "no") for kind in ("moon", "tree", "star", "key")} == {"no"}
    assert said["How many umbrellas are there?"] == "one"
    assert said["Where is the car?"] == "bottom right"
    assert said["What colour is the sign?"] == "white"


def test_phrases_by_hand() -> None:
    said = {question.text: question.truth for question in asked_by_hand("<CAPTION_TO_PHRASE_GROUNDING>")}
    assert said["car and sign"] == f"car{CAR_BOX}sign{SIGN_BOX}"
    assert said["umbrella on a striped background"] == f"umbrella{UMBRELLA_BOX}"


def test_several_of_a_kind_are_found_under_one_phrase() -> None:
    for one in SCENES:
        question = ask(one, "<CAPTION_TO_PHRASE_GROUNDING>")
        result = answer(question.token, question.truth, (one.size_px, one.size_px))
        assert isinstance(result, dict)
        known = Counter(label(thing) for thing in things(one))
        labels: list[str] = result["labels"]
        for phrase, count in Counter(labels).items():
            assert known[phrase if phrase in known else phrase.removesuffix("s")] == count
            assert re.search(rf"\b{phrase}\b", question.text)


@pytest.mark.parametrize("token", ["<REFERRING_EXPRESSION_SEGMENTATION>", "<REGION_TO_SEGMENTATION>"])
def test_outlines_are_those_of_the_thing_that_is_meant(token: str) -> None:
    for one in SCENES[:100]:
        size = (one.size_px, one.size_px)
        question = ask(one, token)
        (found,) = shapes(answer(token, question.truth, size))
        if question.region is None:
            meant = [thing for thing in things(one) if look(thing) == question.text] or things(one)[:1]
            assert len(meant) == 1
        else:
            meant = sorted(things(one), key=lambda thing: -overlap(thing.box, question.region or thing.box))
        assert polygon_iou(found.rings, [outline(meant[0])], size) > 0.95


@pytest.mark.parametrize("token", [task.token for task in ASKING if task.input == "region" and task.answer == "text"])
def test_a_region_means_the_thing_that_it_covers(token: str) -> None:
    for one in SCENES:
        question = ask(one, token)
        assert question.region is not None
        best = max(things(one), key=lambda thing: overlap(thing.box, question.region or thing.box))
        assert overlap(best.box, question.region) > 0.8
        if token == "<REGION_TO_OCR>":
            assert question.truth == (best.text if isinstance(best, Sign) else "no text")
        else:
            assert question.truth.split()[-1] == label(best)
