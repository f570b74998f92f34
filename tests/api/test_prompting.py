"""The text of a chat, and the prompt that it asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from vision_server.api.app import create_app
from vision_server.api.prompting import prompt_fields
from vision_server.errors import BadSetting, UnknownPrompt
from vision_server.served import served
from vision_server.settings import Settings

PHRASES = (
    ("describe", "<DETAILED_CAPTION>"),
    ("describe in detail", "<MORE_DETAILED_CAPTION>"),
    ("find cars", "<VQA> car"),
)
BOX = "<loc_1><loc_2><loc_3><loc_4>"
GROUND = "<CAPTION_TO_PHRASE_GROUNDING>"


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {"prompt": "<OCR>"}),
        ("What is in this picture?", {"prompt": "<OCR>"}),
        ("<OD>", {"prompt": "<OD>"}),
        (" od\n", {"prompt": "<OD>"}),
        ("Please <od> this one", {"prompt": "<OD>"}),
        ("the OD of it", {"prompt": "<OCR>"}),
        ("<image>", {"prompt": "<OCR>"}),
        ("<image>\n<CAPTION>", {"prompt": "<CAPTION>"}),
        ("a < b and c > d", {"prompt": "<OCR>"}),
        (f"{GROUND} a red car", {"prompt": GROUND, "text_input": "a red car"}),
        (f"a red car {GROUND}", {"prompt": GROUND, "text_input": "a red car"}),
        (GROUND, {"prompt": GROUND}),
        (f"see {GROUND} ", {"prompt": GROUND, "text_input": "see"}),
        (f"<REGION_TO_OCR>{BOX}", {"prompt": "<REGION_TO_OCR>", "region": BOX}),
        ("<REGION_TO_OCR> 1,2,30,40", {"prompt": "<REGION_TO_OCR>", "region": "1,2,30,40"}),
        ("<mine> twice", {"prompt": "<Mine>", "text_input": "twice"}),
        ("Describe it", {"prompt": "<DETAILED_CAPTION>"}),
        ("please describe  in\nDetail.", {"prompt": "<MORE_DETAILED_CAPTION>"}),
        ("described", {"prompt": "<OCR>"}),
        ("describe <OD>", {"prompt": "<OD>"}),
        ("find cars", {"prompt": "<VQA>", "text_input": "car"}),
    ],
)  # fmt: skip
def test_what_a_text_asks_for(folder: Path, text: str, fields: dict[str, str]) -> None:
    settings = Settings(model=str(folder), prompts=("<Mine>",), phrases=PHRASES, default_prompt="<OCR>")
    assert prompt_fields(text, served(settings)[0], settings) == fields


@pytest.mark.parametrize("text", ["<NONSENSE>", " <A_B1> "])
def test_a_token_that_nobody_knows_is_no_talk(folder: Path, text: str) -> None:
    settings = Settings(model=str(folder))
    with pytest.raises(UnknownPrompt, match="<CAPTION>"):
        prompt_fields(text, served(settings)[0], settings)


def test_phrases_and_aliases_that_lead_nowhere_are_told_at_the_start(folder: Path) -> None:
    with pytest.raises(BadSetting, match="phrases: describe: <NONSENSE> is no prompt"):
        create_app(Settings(model=str(folder), phrases=(("describe", "<NONSENSE>"),)))
    with pytest.raises(BadSetting, match="model_aliases: gpt-4o: base is not served; these are: toy"):
        create_app(Settings(model=str(folder), model_aliases=(("gpt-4o", "base"),)))
