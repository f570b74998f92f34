from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_server.tasks import TASKS, find, parse_fields

ANALYSIS = (
    "camera_angle: from above, art_style: photo, realistic, location: outdoors, text: NA, "
    "gender: female; male, hair_color: blonde; NA"
)
ANALYZED = {
    "camera_angle": ["from above"],
    "art_style": ["photo, realistic"],
    "location": ["outdoors"],
    "text": [None],
    "gender": ["female", "male"],
    "hair_color": ["blonde", None],
}


@pytest.mark.parametrize("token", ["<GENERATE_TAGS>", "<GENERATE_PROMPT>"])
def test_tags(token: str) -> None:
    found = parse_fields(token, "</s><s>1girl, saber \\(fate\\), solo,, looking at viewer,\n</s>")
    assert found == {"tags": ["1girl", "saber (fate)", "solo", "looking at viewer"]}


@pytest.mark.parametrize("token", ["<MIXED_CAPTION>", "<MIX_CAPTION>"])
@pytest.mark.parametrize("gap", ["\n", "\n\n", " \n \n "])
def test_mixed(token: str, gap: str) -> None:
    found = parse_fields(token, f"A girl, seated (left).{gap}1girl, sitting</s>")
    assert found == {"caption": "A girl, seated (left).", "tags": ["1girl", "sitting"]}


@pytest.mark.parametrize("token", ["<MIXED_CAPTION_PLUS>", "<MIX_CAPTION_PLUS>"])
def test_mixed_plus(token: str) -> None:
    found = parse_fields(token, f"A girl.\n\n1girl, solo\n\n{ANALYSIS}")
    assert found == {"caption": "A girl.", "tags": ["1girl", "solo"], "analysis": ANALYZED}


def test_a_caption_of_two_paragraphs() -> None:
    found = parse_fields("<MIXED_CAPTION>", "A girl.\nShe sits.\n1girl, sitting")
    assert found == {"caption": "A girl.\nShe sits.", "tags": ["1girl", "sitting"]}


def test_an_answer_cut_short() -> None:
    assert parse_fields("<MIXED_CAPTION_PLUS>", "A girl.\n1gi") == {
        "caption": "A girl.",
        "tags": ["1gi"],
        "analysis": {},
    }
    assert parse_fields("<MIXED_CAPTION_PLUS>", "") == {"caption": "", "tags": [], "analysis": {}}


def test_analysis() -> None:
    assert parse_fields("<ANALYZE>", ANALYSIS) == {"analysis": ANALYZED}


def test_analysis_with_a_group_for_each_subject() -> None:
    found = parse_fields("<ANALYZE>", "gender: female, hair: long, dark; gender: male, hair: NA")
    assert found == {"analysis": {"gender": ["female", "male"], "hair": ["long, dark", None]}}


def test_a_value_with_a_colon() -> None:
    assert parse_fields("<ANALYZE>", "text: Open: 9:00, shut 17:00") == {
        "analysis": {"text": ["Open: 9:00, shut 17:00"]}
    }


def test_an_analysis_that_is_prose() -> None:
    assert parse_fields("<ANALYZE>", "a photo of a girl; sitting") == {"analysis": {}}


@pytest.mark.parametrize("token", ["<CAPTION>", "<OD>", "<VQA>", "<MyTask>"])
def test_prompts_without_fields(token: str) -> None:
    assert parse_fields(token, ANALYSIS) == {}


@given(
    token=st.sampled_from([task.token for task in TASKS]),
    text=st.one_of(
        st.text(), st.lists(st.sampled_from(["a", "b_c", ":", ",", ";", "\n", " ", "NA", "\\("])).map("".join)
    ),
)
def test_any_text_has_all_its_fields(token: str, text: str) -> None:
    found = parse_fields(token, text)
    task = find(token)
    assert task
    assert tuple(found) == task.fields
    json.dumps(found)
