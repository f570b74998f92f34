"""The demo against a real daemon process whose worker has no model; and how answers are laid out."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_server import demo

FAKE = (sys.executable, "-m", "tests.fake_daemon")
GIF = b"GIF89a\1\0\1\0\0\0\0\x2c\0\0\0\0\1\0\1\0\0"
TRUE = f"<CAPTION>||{len(GIF)}"  # what the worker without a model says


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    folder = tmp_path / "samples"
    folder.mkdir()
    for name in ("one.gif", "two.gif"):
        (folder / name).write_bytes(GIF)
    truths = [{"<CAPTION>": TRUE, "<OD>": f"<OD>||{len(GIF)}"}, {"<CAPTION>": "another"}]
    pictures = [{"file": f, "truth": t} for f, t in zip(("one.gif", "two.gif"), truths, strict=True)]
    (folder / "truth.json").write_text(json.dumps({"pictures": pictures}))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return str(folder)


def test_the_whole_demo(
    samples: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISION_SERVER_API_KEY", "the daemon of the demo must not see this")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("COLUMNS", "100")
    assert demo.main({"model": model, "device": "cpu"}, samples, FAKE) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith(("one.gif", "two.gif"))]
    assert len(rows) == 2 * 8
    assert "<REGION_TO_OCR>" in out.splitlines()[1]
    assert all(len(row) <= 100 for row in rows)
    captions = [row for row in rows if " <CAPTION> " in row]
    assert TRUE in captions[0]
    assert [row.split()[-3] for row in captions] == ["yes", "no"]
    assert re.search(r"2 pictures, 16 answers in [\d.]+ s, .*\.\n2 of 3 are right: ", out)
    told = re.search(r"The worker is process (\d+), state ready\.", out)
    assert told
    assert f"Process {told[1]} is gone, state unloaded." in out
    assert not psutil.pid_exists(int(told[1]))
    assert not psutil.Process().children(recursive=True)


def failure(capsys: pytest.CaptureFixture[str], flags: dict[str, str], folder: Path) -> str:
    assert demo.main(flags, folder, FAKE) == 1
    err = capsys.readouterr().err
    assert err.startswith("vision-server demo: ")
    assert err.count("\n") == 1
    return err


def test_failures_are_one_line(samples: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "pictures are missing" in failure(capsys, {}, tmp_path / "nowhere")
    assert "model nope: no checkpoint has this name" in failure(capsys, {"model": "nope"}, samples)
    (samples / "two.gif").write_bytes(b"not a picture")
    assert "the daemon answered 415: The body is neither JSON nor a picture" in failure(
        capsys, {"model": model}, samples
    )
    (samples / "one.gif").unlink()
    assert "one.gif" in failure(capsys, {"model": model}, samples)
    assert not psutil.Process().children(recursive=True)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"pictures": []}', '{"pictures": [{}]}', '{"pictures": [{"file": 1, "truth": 2}]}', "\xff"],
)
def test_a_damaged_list_of_samples_is_one_line(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "truth.json").write_text(text, encoding="latin-1")
    assert "install vision-server again" in failure(capsys, {}, tmp_path)


def test_a_daemon_that_dies_at_its_start_is_quoted(samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (sys.executable, "-c", "raise SystemExit('the last words')")
    assert demo.main({}, samples, command) == 1
    assert capsys.readouterr().err == "vision-server demo: the daemon did not start: the last words\n"


@pytest.mark.parametrize(
    ("result", "line"),
    [
        ("a red car", "a red car"),
        ("", "(empty)"),
        ("two\nlines  and spaces", "two lines and spaces"),
        (
            {"bboxes": [[0.4, 1.6, 20, 30.2], [1, 2, 3, 4]], "labels": ["car", "fish"]},
            "car [0 2 20 30], fish [1 2 3 4]",
        ),
        ({"bboxes": [], "labels": []}, "nothing"),
        ({"quad_boxes": [], "labels": []}, '{"quad_boxes": [], "labels": []}'),
    ],
)
def test_an_answer_on_one_line(result: str | dict[str, object], line: str) -> None:
    assert demo.shown(result) == line


@given(st.text(max_size=80), st.integers(3, 60))
def test_a_cell_has_its_width(text: str, columns: int) -> None:
    cell = demo.fit(text, columns)
    assert demo._columns(cell) == columns
    assert cell.isprintable()


def test_a_cell_is_cut_where_it_must() -> None:
    assert demo.fit("captioning", 10) == "captioning"
    assert demo.fit("captioning!", 10) == "caption..."
    assert demo.fit("東京タワー", 8) == "東京... "
    assert demo.row("p", "q", "x" * 300, "yes", "1.00 s", 40).count("x") == 17


BOXES = {"bboxes": [[0.0, 0.0, 10.0, 10.0]], "labels": ["car"]}


@pytest.mark.parametrize(
    ("result", "right"),
    [
        ({"bboxes": [[0.0, 0.0, 10.0, 8.0]], "labels": ["car"]}, True),
        ({"bboxes": [[0.0, 0.0, 10.0, 4.0]], "labels": ["car"]}, False),
        ({"bboxes": [[0.0, 0.0, 10.0, 10.0]], "labels": ["tree"]}, False),
        ({"bboxes": [], "labels": []}, False),
        ("a car", False),
    ],
)
def test_boxes_are_right_by_label_and_overlap(result: str | dict[str, object], right: bool) -> None:
    assert demo.agrees(result, BOXES) is right
    assert demo.agrees("a car", "a car")
