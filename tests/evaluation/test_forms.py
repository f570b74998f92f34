"""The forms in which people have their data, as `vision-server evaluate` asks them: a file or a folder of each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vision_server import cli
from vision_server.evaluation.questions import Question, read

SIZE = (64, 48)
BOX = [3.2, 4.8, 32.5, 24.1]
BOXES = {"bboxes": [BOX], "labels": ["car"]}
ABOUT = ("What does the image describe?", "Locate the objects with category name in the image.")
PIXELS = [3.232, 4.824, 32.032, 24.024]  # the middles of the bins 50 and 100, 500 and 500


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def of_lines(folder: Path) -> Path:
    return lines(
        folder / "data.jsonl",
        {"image": "a.png", "prompt": "<CAPTION>", "answer": "a car"},
        {"image": "a.png", "prompt": "<OD>", "answer": BOXES},
    )


def of_a_list(folder: Path) -> Path:
    """As `vision-server caption --out x.json` writes them."""
    rows = [
        {"image": "a.png", "prompt": "CAPTION", "answer": "a car"},
        {"image": "a.png", "prompt": "OD", "answer": BOXES},
    ]
    path = folder / "data.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def of_swift(folder: Path) -> Path:
    places = [{"caption": "car", "bbox": [50, 100, 500, 500], "bbox_type": "norm_1000"}]
    asked = [
        {"role": "user", "content": f"<image>{ABOUT[0]}"},
        {"role": "assistant", "content": "a car"},
    ]
    return lines(
        folder / "data.jsonl",
        {"messages": asked, "images": ["a.png"]},
        {"query": "<OD>", "response": "<ref-object><bbox>", "images": ["a.png"], "objects": json.dumps(places)},
    )


def of_swift_pixels(folder: Path) -> Path:
    places = {"ref": ["car"], "bbox": [[3.2, 4.8, 32.0, 24.0]]}
    return lines(
        folder / "data.jsonl",
        {"query": "<CAPTION>", "response": "a car", "images": ["a.png"]},
        {"query": "<OD>", "response": "<ref-object><bbox>", "images": ["a.png"], "objects": places},
    )


def of_a_folder(folder: Path) -> Path:
    (folder / "a.txt").write_text("a car\n", encoding="utf-8")
    (folder / "a.OD.txt").write_text(json.dumps(BOXES), encoding="utf-8")
    return folder


def of_the_page(folder: Path) -> Path:
    answers = [{"prompt": "<CAPTION>", "result": "a car"}, {"prompt": "<OD>", "result": BOXES}]
    path = folder / "a.json"
    path.write_text(json.dumps({"picture": "a.png", "width": 64, "height": 48, "answers": answers}), encoding="utf-8")
    return path


FORMS: dict[str, tuple[Callable[[Path], Path], list[float]]] = {
    "lines": (of_lines, BOX),
    "a list": (of_a_list, BOX),
    "ms-swift": (of_swift, PIXELS),
    "ms-swift, pixels": (of_swift_pixels, PIXELS),
    "a folder": (of_a_folder, BOX),
    "the page's": (of_the_page, BOX),
}


@pytest.mark.parametrize(("write", "box"), FORMS.values(), ids=FORMS.keys())
def test_a_caption_and_a_box_in_every_form(tmp_path: Path, write: Callable[[Path], Path], box: list[float]) -> None:
    """What a person has in pixels stays so, what stands in location tokens is read as an answer is."""
    Image.new("RGB", SIZE, "grey").save(tmp_path / "a.png")
    found = read([write(tmp_path)], "CAPTION")
    assert found.faults == []
    said, located = sorted(found.questions, key=lambda one: one.token)
    assert said == Question(tmp_path / "a.png", SIZE, "<CAPTION>", ABOUT[0], ("a car",))
    assert (located.token, located.sentence) == ("<OD>", ABOUT[1])
    assert located.true == ({"bboxes": [pytest.approx(box)], "labels": ["car"]},)


def test_files_and_folders_mixed_are_asked_and_the_faulty_rows_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the embedded checkpoint; a question in words has a row of its own in the table."""
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "pictures/b.png", "pictures/c.png"):
        Image.new("RGB", SIZE, "grey").save(tmp_path / name)
    (tmp_path / "pictures" / "b.txt").write_text("nothing", encoding="utf-8")
    (tmp_path / "none.yaml").write_text("")
    words = {"query": "<image>Is it a car?", "response": "no", "images": ["a.png"]}
    data = [str(lines(tmp_path / "data.jsonl", words)), str(tmp_path / "pictures")]
    result = tmp_path / "result.json"
    asked = ["evaluate", "--config", str(tmp_path / "none.yaml"), "--model", "demo", "--device", "cpu"]
    asked += ["--dtype", "float32", "--prompt", "CAPTION", "--json", str(result), "--data", *data]
    assert cli.main(asked) == 1
    assert "c.png: There is neither a .txt nor a .json file" in capsys.readouterr().err
    assert cli.main([*asked, "--skip-faulty"]) == 0
    shown = capsys.readouterr()
    assert "| (in words) " in shown.out
    assert "| <CAPTION> " in shown.out
    assert "1 rows cannot be asked." in shown.err
    written = json.loads(result.read_text())
    assert written["data"] == "data.jsonl, pictures"
    assert [(row["picture"], row["prompt"], row["true"]) for row in written["answers"]] == [
        ("a.png", "", ["no"]),
        ("b.png", "<CAPTION>", ["nothing"]),
    ]


def test_words_are_taken_without_what_asks_and_counts() -> None:
    """--help and a mistyped word are answered at once."""
    program = (
        "import sys\nfrom vision_server import cli\n"
        "try:\n    cli.main(['evaluate', '--batch', '0', '--data', 'x'])\n"
        "except SystemExit as error:\n    assert error.code == 2\n"
        "print([name for name in ('torch', 'peft', 'transformers', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
