"""DEST: what is written, what is held back from asking, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from vision_server.bulk.results import COLUMNS, Results
from vision_server.bulk.tables import WHOLE_FILE, Answered
from vision_server.errors import BadInput, BadSetting

PROMPTS = ("<CAPTION>", "<OD>")
BOXES = {"bboxes": [[1.0, 2.0, 3.0, 4.0]], "labels": ["é"]}


def opened(dest: Path | str, form: str | None = "jsonl", retry: bool = False, **other: Any) -> Results:
    about = {"model": "demo", "text": ""} | other.pop("about", {})
    return Results(str(dest), other.pop("prompts", PROMPTS), about, form, 3, retry, **other)


def caption(picture: str, text: Any = "a cat", part: str = "part-a", place: int = 0, prompt: int = 0) -> Answered:
    return Answered(picture, picture.rpartition("#")[2], part, place, prompt, result=json.dumps(text))


def fault(picture: str, part: str = "part-a", prompt: int = 0) -> Answered:
    return Answered(picture, picture.rpartition("#")[2], part, 9, prompt, error="bad_image", message="broken")


def end(part: str, of: int, picture: str = "") -> Answered:
    return Answered(picture, picture, part, 0, WHOLE_FILE, of=of)


def lines(dest: Path, part: str = "part-a") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (dest / f"{part}.jsonl").read_text("utf-8").splitlines()]


def test_a_part_is_written_when_it_is_whole_and_in_order(tmp_path: Path) -> None:
    results = opened(tmp_path / "out")
    results.add([caption("b.png", place=1), end("part-a", 3)])
    results.add([caption("a.png", BOXES, prompt=1)])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bulk.json"]
    results.add([fault("c.png")])
    assert lines(tmp_path / "out") == [
        {"picture": "a.png", "key": "a.png", "prompt": "<OD>", "result": BOXES},
        {"picture": "b.png", "key": "b.png", "prompt": "<CAPTION>", "result": "a cat"},
        {"picture": "c.png", "key": "c.png", "prompt": "<CAPTION>", "error": "bad_image", "message": "broken"},
    ]
    assert (results.answered, results.failed) == (2, 1)


def test_parquet_has_every_column_and_objects_as_json(tmp_path: Path) -> None:
    results = opened(tmp_path, None)
    results.add([caption("a.png", BOXES, prompt=1), fault("b.png"), end("part-a", 2)])
    table = pq.read_table(tmp_path / "part-a.parquet")
    assert tuple(table.column_names) == COLUMNS
    first, second = table.to_pylist()
    assert json.loads(first["result"]) == BOXES
    assert (first["error"], second["result"], second["error"]) == (None, None, "bad_image")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_what_is_written_is_done_and_stays_when_more_comes(tmp_path: Path, form: str) -> None:
    opened(tmp_path, form).add([caption("a.png", "line\u2028break"), fault("b.png"), end("part-a", 2)])
    results = opened(tmp_path, None)
    assert results.form == form, "as in DEST"
    assert [set(results.done(f"{name}.png")) for name in "abc"] == [{0}, {0}, set()]
    assert (results.home("a.png"), results.home("c.png"), results.here_already) == ("part-a", None, 2)
    results.add([caption("a.png", BOXES, prompt=1), end("part-a", 1)])
    again = opened(tmp_path, None)
    assert (set(again.done("a.png")), again.here_already) == ({0, 1}, 3)
    assert opened(tmp_path, None, prompts=("<OD>",)).done("a.png") == {0}, "numbers are those of this run's prompts"


def test_failed_rows_are_asked_again_when_that_is_said_and_replaced_in_their_place(tmp_path: Path) -> None:
    opened(tmp_path).add([fault("b.png"), caption("c.png", place=10), end("part-a", 2)])
    results = opened(tmp_path, retry=True)
    assert (set(results.done("b.png")), results.home("b.png")) == (set(), "part-a")
    results.add([caption("b.png", "a dog"), end("part-a", 1)])
    assert [(row["picture"], row.get("result")) for row in lines(tmp_path)] == [("b.png", "a dog"), ("c.png", "a cat")]


def test_a_tar_is_complete_when_it_was_read_to_its_end_and_all_is_answered(tmp_path: Path) -> None:
    results = opened(tmp_path, prompts=("<CAPTION>",))
    results.add([caption("s.tar#a"), fault("s.tar#b"), end("part-a", 2), end("", 2, "s.tar")])
    results.flush()
    again = opened(tmp_path, prompts=("<CAPTION>",))
    assert again.is_complete("s.tar")
    assert again.done_of("s.tar") == {"s.tar#a": {0}, "s.tar#b": {0}}
    assert not again.is_complete("other.tar")
    assert not opened(tmp_path, prompts=PROMPTS).is_complete("s.tar"), "another prompt is to be asked"
    assert not opened(tmp_path, prompts=("<CAPTION>",), retry=True).is_complete("s.tar")


def test_a_file_that_was_broken_is_read_again_and_its_row_is_gone(tmp_path: Path) -> None:
    broken = Answered("s.tar", "s.tar", "part-a-file", 0, WHOLE_FILE, error="bad_file", message="it ends")
    results = opened(tmp_path)
    results.add([broken, end("part-a-file", 1), end("", 0, "s.tar")])
    results.flush()
    assert [row["prompt"] for row in lines(tmp_path, "part-a-file")] == [""]
    assert opened(tmp_path).is_complete("s.tar")
    assert not opened(tmp_path, retry=True).is_complete("s.tar")
    assert not (tmp_path / "part-a-file.jsonl").exists()


def test_what_came_is_written_after_a_minute_and_at_the_end(tmp_path: Path) -> None:
    now_s = [0.0]
    results = opened(tmp_path, now_s=lambda: now_s[0])
    results.add([caption("a.png")])
    assert not (tmp_path / "part-a.jsonl").exists()
    now_s[0] = 61.0
    results.add([caption("b.png", place=1)])
    assert len(lines(tmp_path)) == 2
    results.add([caption("c.png", place=2), end("part-a", 3)])
    assert [row["picture"] for row in lines(tmp_path)] == ["a.png", "b.png", "c.png"]
    results.add([caption("d.png", part="part-b")])
    results.flush()
    assert len(lines(tmp_path, "part-b")) == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"about": {"model": "base"}}, r'its model is "demo" and not "base"'),
        ({"form": "parquet"}, r'its format is "jsonl" and not "parquet"'),
    ],
)
def test_a_dest_of_another_run_is_refused(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    opened(tmp_path).add([caption("a.png"), end("part-a", 1)])
    with pytest.raises(BadSetting, match=said):
        opened(tmp_path, **other)
    assert len(lines(tmp_path)) == 1


def test_a_dest_without_an_answer_binds_nobody(tmp_path: Path) -> None:
    opened(tmp_path, about={"model": "base"})
    opened(tmp_path).flush()
    assert json.loads((tmp_path / "bulk.json").read_text())["model"] == "demo"


@pytest.mark.parametrize("name", ["bulk.json", "part-a.jsonl"])
def test_what_is_damaged_is_named(tmp_path: Path, name: str) -> None:
    opened(tmp_path).add([caption("a.png"), end("part-a", 1)])
    (tmp_path / name).write_text("{\n")
    with pytest.raises(BadInput, match=name):
        opened(tmp_path)


def test_a_dest_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(BadInput, match="DEST"):
        opened(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).add([caption("a.png"), end("part-a", 1)])
    results = opened(tmp_path)

    def no_room(path: Path, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_room)
    with pytest.raises(BadInput, match="No space left"):
        results.add([caption("a.png", prompt=1), end("part-a", 1)])
    assert len(lines(tmp_path)) == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_dest_in_another_file_system() -> None:
    memory = fsspec.filesystem("memory")
    opened("memory://answers").add([caption("a.png"), end("part-a", 1)])
    assert opened("memory://answers").done("a.png") == {0}
    assert sorted(memory.ls("/answers", detail=False)) == ["/answers/bulk.json", "/answers/part-a.jsonl"]
    memory.rm("/answers", recursive=True)


def test_the_web_takes_no_writing() -> None:
    with pytest.raises(BadInput, match="DEST cannot be"):
        opened("http://127.0.0.1:9/answers")
