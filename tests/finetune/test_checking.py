"""What is wrong with data is found before anything is learned, and the good rows become what the daemon would send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.tiny import picture
from vision_server.engine.config import Config, read_config
from vision_server.engine.preprocess import PromptTokenizer
from vision_server.errors import BadInput
from vision_server.finetune.checking import Checked, check, report
from vision_server.finetune.examples import fingerprint, split


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture(1, (80, 60)).save(tmp_path / "a.png")
    picture(2, (80, 60)).save(tmp_path / "b.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(3, (80, 60)).save(tmp_path / "turned.jpg", exif=turned)
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    (tmp_path / "no.png").write_text("no picture")
    return tmp_path


def checked(folder: Path, base: Path, *rows: dict[str, Any], prompt: str = "") -> Checked:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    config: Config = read_config(base)
    return check([path], prompt, config, PromptTokenizer(base), workers=2, quiet=True)


def test_good_rows_are_sent_as_the_daemon_sends_them(folder: Path, base: Path) -> None:
    rows: list[tuple[dict[str, Any], str, str]] = [
        ({"prompt": "caption", "answer": " a car "}, "What does the image describe?", "<CAPTION>"),
        ({"prompt": "What does the image describe?", "answer": "a car"}, "What does the image describe?", "<CAPTION>"),
        ({"prompt": "<GENERATE_TAGS>", "answer": "car"}, "<GENERATE_TAGS>", "<GENERATE_TAGS>"),
        ({"prompt": "<MINE> softly", "answer": "car"}, "<MINE>softly", "<MINE>"),
        ({"prompt": "Is it a car?", "answer": "yes"}, "Is it a car?", ""),
        ({"prompt": "<VQA>Is it?", "answer": "yes"}, "<VQA>Is it?", "<VQA>"),
        (
            {"prompt": "REGION_TO_CATEGORY", "region": [8, 6, 40, 30], "answer": "car"},
            "What is the region <loc_100><loc_100><loc_500><loc_500>?",
            "<REGION_TO_CATEGORY>",
        ),
    ]
    for row, sentence, token in rows:
        found = checked(folder, base, {"image": "a.png", **row})
        assert found.faults == []
        assert [(one.sentence, one.token) for one in found.examples] == [(sentence, token)]
        assert found.examples[0].answer == str(row["answer"]).strip()


def test_places_are_those_of_the_upright_picture(folder: Path, base: Path) -> None:
    boxes = {"bboxes": [[0, 0, 30, 80]], "labels": ["car"]}
    found = checked(folder, base, {"image": "turned.jpg", "prompt": "OD", "answer": boxes})
    assert [one.answer for one in found.examples] == ["car<loc_0><loc_0><loc_500><loc_999>"]
    assert found.examples[0].size == (60, 80)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"image": "broken.png", "answer": "x"}, "broken picture"),
        ({"image": "no.png", "answer": "x"}, "broken picture"),
        ({"image": "missing.png", "answer": "x"}, "broken picture"),
        ({"answer": ""}, "empty answer"),
        ({"answer": " </s> "}, "empty answer"),
        ({"prompt": "Why?", "answer": ""}, "empty answer"),
        ({"answer": "car " * 200}, "too long"),
        ({"prompt": "<VQA>" + "car " * 200, "answer": "x"}, "too long"),
        ({"prompt": "OD", "answer": {"bboxes": [[0, 0, 81, 60]], "labels": ["x"]}}, "outside the picture"),
        ({"prompt": "OD", "answer": "car<loc_0><loc_0><loc_1000><loc_5>"}, "outside the picture"),
        ({"prompt": "REGION_TO_OCR", "region": [0, 0, 81, 60], "answer": "x"}, "outside the picture"),
        ({"prompt": "OD", "answer": {"bboxes": [[9, 0, 3, 6]], "labels": ["x"]}}, "wrong form"),
        ({"prompt": "REGION_TO_OCR", "answer": "x"}, "wrong form"),
        ({"prompt": "<CAPTION> of what?", "answer": "x"}, "wrong form"),
        ({"prompt": "", "answer": "x"}, "wrong form"),
        ({"answer": 7}, "not a row"),
        ({"image": "a.png", "answer": "first"}, "duplicate"),
    ],
)
def test_each_fault_is_found_and_the_row_before_is_kept(
    folder: Path, base: Path, row: dict[str, Any], kind: str
) -> None:
    good = {"image": "a.png", "prompt": "<CAPTION>", "answer": "first"}
    found = checked(folder, base, good, {"image": "b.jpg", "prompt": "<CAPTION>", **row})
    assert [one.answer for one in found.examples] == ["first"]
    assert [(fault.where, fault.kind) for fault in found.faults] == [("rows.jsonl line 2", kind)]
    assert found.rows == 2
    assert f"{kind}: 1" in report(found)
    assert found.faults[0].message in report(found)


def test_the_same_picture_under_another_name_is_a_duplicate(folder: Path, base: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    row = {"image": "a.png", "prompt": "<CAPTION>", "answer": "a car"}
    found = checked(folder, base, row, {**row, "image": "copy.png", "answer": "a tree"}, {**row, "prompt": "OCR"})
    [fault] = found.faults
    assert "line 1, with another answer" in fault.message
    assert len(found.examples) == 2


def test_where_places_are_asked_for_none_at_all_is_an_answer(folder: Path, base: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "OD", "answer": {"bboxes": [], "labels": []}},
        {"prompt": "OCR_WITH_REGION", "answer": ""},
    ]
    found = checked(folder, base, *({"image": "a.png", **row} for row in rows))
    assert (found.faults, [one.answer for one in found.examples]) == ([], ["", ""])


def test_a_source_that_is_not_there(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no file or folder"):
        check([tmp_path / "nowhere"], "", read_config(base), PromptTokenizer(base), 1, quiet=True)


def test_only_the_first_faults_are_shown(folder: Path, base: Path) -> None:
    rows = [{"image": "a.png", "prompt": f"Why {number}?", "answer": ""} for number in range(9)]
    text = report(checked(folder, base, *rows))
    assert "empty answer: 9" in text
    assert text.count("The answer is empty.") == 5
    assert "and 4 more" in text


def test_pictures_are_on_one_side_only(lessons: Path, base: Path) -> None:
    examples = check([lessons], "", read_config(base), PromptTokenizer(base), 2, quiet=True).examples
    learned, watched = split(examples, 0.25, seed=0)
    assert len({one.picture for one in watched}) == 3
    assert {one.picture for one in learned} & {one.picture for one in watched} == set()
    assert sorted(map(str, [*learned, *watched])) == sorted(map(str, examples))
    assert split(examples, 0.25, seed=0)[1] == watched != split(examples, 0.25, seed=1)[1]
    assert split(examples, 0.0, seed=0) == (examples, [])
    assert fingerprint(learned) != fingerprint(watched)
