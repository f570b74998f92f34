"""The forms in which people have their data: each becomes the same rows, and what is no row is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vision_server.dataset.forms import Fault, read
from vision_server.dataset.rows import Row

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
