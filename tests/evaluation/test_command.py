"""`vision-server evaluate` with the embedded checkpoint and bundled pictures, and data that cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vision_server import cli
from vision_server.evaluation.questions import fingerprint, read, told
from vision_server.training.samples import FOLDER

PROMPTS = ("<CAPTION>", "<OD>", "<OCR>", "<REGION_TO_CATEGORY>")


def bundled(count: int) -> list[dict[str, Any]]:
    rows = []
    for one in json.loads((FOLDER / "truth.json").read_text())["pictures"]:
        for asked in one["asked"]:
            if asked["prompt"] in PROMPTS:
                row = {"image": str(FOLDER / one["file"]), "prompt": asked["prompt"], "answer": asked["truth"]}
                rows.append({**row, **{name: asked[name] for name in ("text", "region") if asked[name]}})
    return rows[:count]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_the_embedded_checkpoint_is_asked_counted_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is right about its own pictures; a second run against the first is no different."""
    data, result = write(tmp_path / "data.jsonl", bundled(8)), tmp_path / "first.json"
    (tmp_path / "none.yaml").write_text("")
    words = ["evaluate", "--config", str(tmp_path / "none.yaml"), "--model", "demo", "--device", "cpu"]
    words += ["--dtype", "float32", "--data", str(data)]
    assert cli.main([*words, "--json", str(result)]) == 0
    written = json.loads(result.read_text())
    assert (written["model"], written["adapter"], written["data"]) == ("demo", None, "data.jsonl")
    assert sum(row["questions"] for row in written["figures"].values()) == 8
    assert written["figures"]["<CAPTION>"]["exact"] >= 0.5
    assert written["figures"]["<OD>"]["ap50"] >= 0.5
    assert {row["picture"] for row in written["answers"]} <= {path.name for path in FOLDER.iterdir()}
    assert str(FOLDER) not in result.read_text()
    assert "| <OD>" in capsys.readouterr().out
    assert cli.main([*words, "--limit", "3", "--against", str(result), "--resamples", "20"]) == 0
    out = capsys.readouterr().out
    assert "3 questions, 5 that only one was asked left out." in out
    assert out.count("not clear") >= 3


def test_answers_are_texts_locations_or_pixels_and_texts_may_be_several(tmp_path: Path) -> None:
    picture = next(path.name for path in sorted(FOLDER.iterdir()) if path.suffix == ".png")
    where = {"image": str(FOLDER / picture)}
    pixels = {"bboxes": [[1.0, 2.0, 30.0, 40.0]], "labels": ["car"]}
    rows: list[dict[str, Any]] = [
        {**where, "answer": "a car"},
        {**where, "answer": "one car"},
        {**where, "prompt": "od", "answer": "car<loc_0><loc_1><loc_500><loc_999>"},
        {**where, "prompt": "<REGION_PROPOSAL>", "answer": pixels},
        {**where, "prompt": "<VQA> how many?", "answer": "one"},
        {**where, "prompt": "<MINE>", "answer": "mine"},
        {**where, "prompt": "Is it a car?", "answer": "yes"},
    ]
    found = read([write(tmp_path / "x.jsonl", rows)], "<CAPTION>")
    asked = found.questions
    assert found.faults == []
    assert [one.token for one in asked] == ["<CAPTION>", "<OD>", "<REGION_PROPOSAL>", "<VQA>", "<MINE>", ""]
    assert asked[0].true == ("a car", "one car")
    assert asked[1].true[0] == {"bboxes": [pytest.approx([0.256, 0.768, 256.256, 511.744])], "labels": ["car"]}
    assert asked[2].true == (pixels,)
    assert [one.sentence for one in asked[3:]] == ["<VQA>how many?", "<MINE>", "Is it a car?"]
    assert fingerprint(asked) == fingerprint(asked[::-1]) != fingerprint(asked[1:])


def test_rows_that_cannot_be_asked_are_all_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = str(FOLDER / "scene-02.png")
    boxes = {"bboxes": [[1, 2, 30, 40]], "labels": ["car"]}
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    rows: list[dict[str, Any]] = [
        {"image": picture, "prompt": "<CAPTION>", "answer": "x"},
        {"image": "nowhere.png", "prompt": "<CAPTION>", "answer": "x"},
        {"image": "broken.png", "prompt": "<CAPTION>", "answer": "x"},
        {"image": picture, "prompt": "<CAPTION>", "answer": {"bboxes": []}},
        {"image": picture, "prompt": "<OD>", "answer": {**boxes, "bboxes": [[1, 2, 3000, 40]]}},
        {"image": picture, "answer": "x"},
        {"image": picture, "prompt": "<REGION_TO_OCR>", "answer": "x"},
        {"image": picture, "prompt": "<OD>", "answer": boxes},
        {"image": picture, "prompt": "<OD>", "answer": boxes},
    ]
    data = write(tmp_path / "data.jsonl", rows)
    with data.open("a") as file:
        file.write("{broken\n")
    found = read([data])
    assert [one.token for one in found.questions] == ["<CAPTION>", "<OD>"]
    lines = sorted(int(fault.partition("line ")[2].partition(":")[0]) for fault in found.faults)
    assert lines == [2, 3, 4, 5, 6, 7, 9, 10]
    assert told(found.faults).startswith("8 rows cannot be asked.\n  data.jsonl line 2: ")
    assert told(found.faults).endswith("(and 3 more)")
    assert cli.main(["evaluate", "--data", str(data), "--model", "demo"]) == 1
    err = capsys.readouterr().err
    assert "8 rows cannot be asked." in err
    assert "--skip-faulty" in err


def test_data_that_is_not_there_or_holds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--data", str(tmp_path / "none.jsonl"), "--model", "demo"]) == 1
    assert "There is no file or folder" in capsys.readouterr().err
    (tmp_path / "empty.jsonl").write_text("\n")
    assert cli.main(["evaluate", "--data", str(tmp_path / "empty.jsonl"), "--model", "demo"]) == 1
    assert "There are no questions." in capsys.readouterr().err
    (tmp_path / "broken.jsonl").write_text("{broken\n")
    assert cli.main(["evaluate", "--data", str(tmp_path / "broken.jsonl"), "--skip-faulty", "--model", "demo"]) == 1
    err = capsys.readouterr().err
    assert "1 rows cannot be asked.\n  broken.jsonl line 1: This is not JSON." in err
    assert "There are no questions." in err


def test_numbers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--data", "x", "--batch", "0"])
    with pytest.raises(SystemExit):
        cli.main(["evaluate"])
