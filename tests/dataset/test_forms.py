"""The forms in which people have their data: each becomes the same rows, and what is no row is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vision_server.client.records import FORMATS, Records
from vision_server.dataset.forms import Fault, read
from vision_server.dataset.rows import EmptyAnswer, Row
from vision_server.errors import BadInput

BOXES = {"bboxes": [[1, 2, 30, 40]], "labels": ["car"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("beach.jpg", "a cat.png", "sub/dog.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"looked into by nobody here")
    return tmp_path


def lines(folder: Path, *values: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(value)}\n\n" for value in values), encoding="utf-8-sig")
    return path


def rows(source: Path, prompt: str = "") -> list[Row]:
    found = list(read(source, prompt))
    assert [one for one in found if isinstance(one, Fault)] == []
    return [one for one in found if isinstance(one, Row)]


def test_lines_of_image_prompt_and_answer(folder: Path) -> None:
    path = lines(
        folder,
        {"image": "beach.jpg", "prompt": "<CAPTION>", "answer": "a beach"},
        {"image": str(folder / "a cat.png"), "prompt": "OD", "answer": BOXES, "note": "ignored"},
        {"image": "sub/dog.webp", "prompt": "REGION_TO_CATEGORY", "region": [1, 2, 3, 4], "answer": "dog"},
        {"image": "beach.jpg", "prompt": "VQA", "text": "Where?", "answer": "there"},
    )
    first, second, third, fourth = rows(path)
    assert (first.picture, first.prompt, first.answer) == (folder / "beach.jpg", "<CAPTION>", "a beach")
    assert first.where == "rows.jsonl line 1"
    assert (second.picture, second.answer, second.where) == (folder / "a cat.png", BOXES, "rows.jsonl line 3")
    assert (third.region, fourth.text) == ([1, 2, 3, 4], "Where?")


def test_only_a_line_feed_ends_a_line(folder: Path) -> None:
    path = folder / "rows.jsonl"
    row = {"image": "beach.jpg", "prompt": "OCR", "answer": "one\u2028two\x85three"}
    path.write_bytes(f"{json.dumps(row, ensure_ascii=False)}\r\n".encode() * 2)
    assert [one.answer for one in rows(path)] == [row["answer"]] * 2


def test_a_prompt_for_those_that_have_none(folder: Path) -> None:
    path = lines(
        folder, {"image": "beach.jpg", "answer": "a beach"}, {"image": "beach.jpg", "prompt": "OD", "answer": ""}
    )
    assert [row.prompt for row in rows(path, "CAPTION")] == ["CAPTION", "OD"]


@pytest.mark.parametrize(
    "value",
    [
        {"query": "<image>What is this?", "response": "a beach", "images": ["beach.jpg"]},
        {"query": "What is this?", "response": "a beach", "images": "beach.jpg", "history": []},
        {
            "messages": [
                {"role": "system", "content": "You are helpful."},
                {"role": "user", "content": "<image>What is this?"},
                {"role": "assistant", "content": "a beach"},
            ],
            "images": [{"path": "beach.jpg"}],
        },
    ],
    ids=["query", "one image", "messages"],
)
def test_ms_swift(folder: Path, value: dict[str, Any]) -> None:
    [row] = rows(lines(folder, value))
    assert (row.picture, row.prompt, row.answer) == (folder / "beach.jpg", "What is this?", "a beach")


@pytest.mark.parametrize(
    "value",
    [
        {"picture": "beach.jpg", "width": 9, "answers": [{"prompt": "<OD>", "result": BOXES}]},
        {"image": "beach.jpg", "prompt": "<OD>", "result": BOXES},
        {"image": "beach.jpg", "answers": {"<OD>": BOXES}},
    ],
    ids=["the page's", "the client's", "by prompt"],
)
@pytest.mark.parametrize("ending", ["jsonl", "json", "a list"])
def test_what_page_and_clients_write(folder: Path, value: dict[str, Any], ending: str) -> None:
    path = lines(folder, value)
    if ending != "jsonl":
        path = folder / "answers.json"
        path.write_text(json.dumps(value if ending == "json" else [value], indent=2))
    [row] = rows(path)
    assert (row.picture, row.prompt, row.answer) == (folder / "beach.jpg", "<OD>", BOXES)


def test_text_and_region_of_what_the_page_writes(folder: Path) -> None:
    asked = [
        {"prompt": "<VQA>", "text_input": "Where?", "result": "there"},
        {"prompt": "<REGION_TO_OCR>", "region": [1, 2, 3, 4], "result": "EXIT"},
    ]
    first, second = rows(lines(folder, {"picture": "holiday/beach.jpg", "answers": asked}))
    assert (first.text, second.region) == ("Where?", [1, 2, 3, 4])
    assert first.picture == folder / "beach.jpg"  # the page names the folder it was dropped with


@pytest.mark.parametrize("objects", [{}, {"objects": None}, {"objects": []}, {"objects": "[]"}])
def test_a_place_that_no_object_fills_is_nothing_to_learn(folder: Path, objects: dict[str, Any]) -> None:
    value = {"query": "Find the cat", "response": "<bbox>", "images": ["a cat.png"], **objects}
    [row] = rows(lines(folder, value))
    with pytest.raises(BadInput, match="more <bbox> than objects"):
        row.example((100, 50))


def test_a_bare_answer_that_the_page_has_saved(folder: Path) -> None:
    (folder / "beach.json").write_text('"a beach"\n')
    (folder / "a cat.OD.json").write_text(json.dumps(BOXES))
    (folder / "sub" / "dog.json").write_text("[7]")
    first, second, third = read(folder, "CAPTION")
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert (first.picture.name, first.prompt, first.answer) == ("a cat.png", "<OD>", BOXES)
    assert (second.picture.name, second.prompt, second.answer) == ("beach.jpg", "CAPTION", "a beach")
    assert isinstance(third, Fault)


@pytest.mark.parametrize("form", FORMATS)
def test_what_the_caption_command_writes_in_each_of_its_forms(folder: Path, form: str) -> None:
    """By its own code: texts with quotes and lines, places, what a prompt was given, and nothing at all."""
    path = folder / f"answers.{form}"
    records = Records(form, path, overwrite=False)
    records.add("beach.jpg", "<CAPTION>", 'a "beach", and\nthe sea', "", "")
    records.add("a cat.png", "<OD>", BOXES, "", "")
    records.add("sub/dog.webp", "<REGION_TO_CATEGORY>", "dog", "", "1,2,30,40")
    records.add("beach.jpg", "<VQA>", "there", "Where, then?", "")
    records.add("beach.jpg", "<OCR>", "", "", "")
    records.close()
    first, second, third, fourth, fifth = rows(path)
    assert (first.picture, first.prompt, first.answer) == (folder / "beach.jpg", "<CAPTION>", 'a "beach", and\nthe sea')
    assert (second.picture, second.prompt, second.answer) == (folder / "a cat.png", "<OD>", BOXES)
    assert third.picture == folder / "sub" / "dog.webp"
    asked = third.example((100, 50)).sentence
    assert asked == "What is the region <loc_10><loc_40><loc_300><loc_800>?"
    assert (fourth.text, fourth.answer) == ("Where, then?", "there")
    assert fifth.answer == ""
    with pytest.raises(EmptyAnswer):
        fifth.example((100, 50))


def test_a_table_by_the_heads_of_its_columns(folder: Path) -> None:
    path = folder / "mine.CSV"
    path.write_text('\ufeffimage, answer,note\r\nbeach.jpg,"a\r\nbeach",x\r\n\r\na cat.png\r\nsub/dog.webp,a dog,\r\n')
    first, second, third = read(path, "CAPTION")
    assert isinstance(first, Row)
    assert isinstance(third, Row)
    assert (first.where, first.prompt, first.answer) == ("mine.CSV line 2", "CAPTION", "a\nbeach")
    assert second == Fault("mine.CSV line 5", "not a row", "There are 1 cells, and 3 heads of columns.")
    assert (third.where, third.answer) == ("mine.CSV line 6", "a dog")
    path.write_text("who,what\nbeach.jpg,a beach\n")
    [fault] = read(path)
    assert fault == Fault("mine.CSV line 2", "not a row", "No picture is named: give `image`.")
    path.write_text("image,answer\nbeach.jpg," + "x" * 200_000)
    [fault] = read(path)
    assert isinstance(fault, Fault)
    assert "no CSV" in fault.message


@pytest.mark.parametrize("between", [";", "\t"])
def test_a_table_as_other_spreadsheets_save_it(folder: Path, between: str) -> None:
    path = folder / "mine.csv"
    path.write_text(between.join(("image", "prompt", "answer")) + "\n" + between.join(("beach.jpg", "OCR", "a, b, c")))
    [row] = rows(path)
    assert (row.prompt, row.answer) == ("OCR", "a, b, c")


def test_pictures_are_found_as_the_caption_command_names_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names them from where it ran; its list may lie there, among the pictures, or elsewhere."""
    monkeypatch.chdir(folder.parent)
    named = f"{folder.name}/sub/dog.webp"
    for place in (folder.parent, folder, folder / "sub", folder / "lists"):
        place.mkdir(exist_ok=True)
        path = place / "answers.csv"
        path.write_text(f"image,prompt,answer\n{named},<CAPTION>,a dog\n")
        [row] = rows(path)
        assert row.picture.samefile(folder / "sub" / "dog.webp"), place
    path.write_text("image,prompt,answer\nnowhere/dog.webp,<CAPTION>,a dog\n")
    assert rows(path)[0].picture == folder / "lists" / "nowhere" / "dog.webp"


def test_a_folder_of_pictures_with_what_is_said_beside_them(folder: Path) -> None:
    (folder / "beach.txt").write_text("a beach\n", encoding="utf-8-sig")
    (folder / "beach.OD.txt").write_text(json.dumps(BOXES))
    (folder / "a cat.png.txt").write_text("a cat")
    (folder / "sub" / "dog.json").write_text(
        json.dumps({"picture": "dog.webp", "answers": [{"prompt": "<OCR>", "result": "x"}]})
    )
    (folder / "notes.txt").write_text("belongs to no picture")
    found = {(row.picture.name, row.prompt, str(row.answer)) for row in rows(folder, "CAPTION")}
    assert found == {
        ("beach.jpg", "CAPTION", "a beach"),
        ("beach.jpg", "<OD>", str(BOXES)),
        ("a cat.png", "CAPTION", "a cat"),
        ("dog.webp", "<OCR>", "x"),
    }


def test_a_picture_without_a_word_is_named(folder: Path) -> None:
    (folder / "beach.txt").write_text("a beach")
    faults = [one for one in read(folder, "CAPTION") if isinstance(one, Fault)]
    assert {fault.where for fault in faults} == {"a cat.png", str(Path("sub/dog.webp"))}
    assert {fault.kind for fault in faults} == {"no answer"}


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ([1], "JSON object"),
        ({"prompt": "OD", "answer": "x"}, "No picture"),
        ({"image": "beach.jpg", "prompt": "OD"}, "no answer"),
        ({"image": "beach.jpg", "prompt": "OD", "answer": 7}, "texts"),
        ({"image": 7, "prompt": "OD", "answer": "x"}, "no path"),
        ({"image": "https://a.example/b.jpg", "prompt": "OD", "answer": "x"}, "an address"),
        ({"image": "beach.jpg", "answers": "x"}, "list of objects"),
        ({"query": "q", "response": "r", "images": ["a", "b"]}, "2 pictures"),
        ({"query": "q", "response": "r", "images": ["a"], "history": [["q", "r"]]}, "conversations"),
        ({"messages": [{"role": "user", "content": "q"}] * 2, "images": ["a"]}, "conversations"),
        ({"query": "q", "images": ["a"]}, "texts"),
        ({"query": "<bbox>", "response": "r", "images": ["a"], "objects": "{"}, "no JSON"),
        ({"query": "<bbox>", "response": "r", "images": ["a"], "objects": 7}, "list of objects"),
        ({"query": "q", "response": "r", "images": ["a"], "objects": [{"bbox_type": "cm"}]}, "bbox_type cm"),
    ],
)
def test_what_is_no_row_is_named_and_the_others_are_kept(folder: Path, value: Any, wrong: str) -> None:
    good = {"image": "beach.jpg", "prompt": "OD", "answer": "x"}
    first, second, third = read(lines(folder, good, value, good))
    assert isinstance(second, Fault)
    assert (second.where, second.kind) == ("rows.jsonl line 3", "not a row")
    assert wrong in second.message
    assert isinstance(first, Row)
    assert isinstance(third, Row)


def test_what_is_no_json_and_no_text_is_named(folder: Path) -> None:
    path = folder / "rows.jsonl"
    path.write_text('{"image": \n')
    [fault] = read(path)
    assert isinstance(fault, Fault)
    assert fault.message == "This is not JSON."
    path.write_bytes(b"\xff\xfe\x00")
    [fault] = read(path)
    assert isinstance(fault, Fault)
    assert "UTF-8" in fault.message
