"""The demo against a real daemon process: with a worker that has no model, and with the embedded checkpoint."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image, ImageChops

from vision_server import demo

FAKE = (sys.executable, "-m", "tests.fake_daemon")
SIZE = (80, 60)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Two pictures. The worker without a model answers `prompt|text|bytes`, and the prompts it knows are the stock."""
    folder = tmp_path / "samples"
    folder.mkdir()
    for name in ("one.png", "two.png"):
        Image.new("RGB", SIZE, "teal").save(folder / name)
    count = (folder / "one.png").stat().st_size
    one = [
        asked("<CAPTION>", f"<CAPTION>||{count}"),
        asked("<OD>", "no place is true"),
        asked("<REFERRING_EXPRESSION_SEGMENTATION>", "<loc_1><loc_1><loc_9><loc_1><loc_9><loc_9>", text="a red\ncar"),
        asked("<REGION_TO_CATEGORY>", f"<REGION_TO_CATEGORY>||{count}", region=[10, 20, 30.5, 40]),
        asked("<GENERATE_TAGS>", "the model was not trained for this"),
    ]
    pictures = [{"file": "one.png", "asked": one}, {"file": "two.png", "asked": [asked("<CAPTION>", "another")]}]
    (folder / "truth.json").write_text(json.dumps({"pictures": pictures}))
    return folder


def asked(prompt: str, truth: str, text: str = "", region: list[float] | None = None) -> dict[str, Any]:
    return {"prompt": prompt, "text": text, "region": region, "truth": truth}


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return str(folder)


def test_the_whole_demo(
    samples: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VISION_SERVER_API_KEY", "the daemon of the demo must not see this")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("COLUMNS", "100")
    out_folder = tmp_path / "drawn"
    assert demo.main({"model": model, "device": "cpu"}, samples, FAKE, out_folder) == 0
    out = capsys.readouterr().out
    assert "Not asked, since this model was not trained for them: <GENERATE_TAGS>\n" in out
    assert "one.png, 80 x 60 pixels" in out
    rows = [line for line in out.splitlines() if line.endswith(" s")]
    assert [(row.split()[0], row.split()[-3]) for row in rows] == [
        ("CAPTION", "yes"),
        ("OD", "yes"),
        ("REFERRING_EXPRESSION_...", "no"),
        ("REGION_TO_CATEGORY", "yes"),
        ("CAPTION", "no"),
    ]
    assert all(len(row) <= 100 for row in rows)
    assert '"a red?car" -> nothing' in rows[2]
    assert "[10 20 30 40] -> <REGION_TO_CATEGORY>||" in rows[3]
    assert re.search(r"^5 answers in [\d.]+ s, ", out, re.MULTILINE)
    for kind, counts in (("text", (3, 2)), ("boxes", (1, 1)), ("polygons", (1, 0)), ("all", (5, 3))):
        assert re.search(rf"^{kind} +{counts[0]} +{counts[1]}$", out, re.MULTILINE), kind
    told = re.search(r"The worker is process (\d+), state ready\.", out)
    assert told
    assert f"Process {told[1]} is gone, state unloaded." in out
    assert not psutil.pid_exists(int(told[1]))
    assert not psutil.Process().children(recursive=True)
    assert out.splitlines()[-1] == f"The answers that have a place are drawn into the pictures in {out_folder}"
    assert [path.name for path in out_folder.iterdir()] == ["one-REGION_TO_CATEGORY.png"]


def test_a_fresh_folder_is_made_where_none_is_named(
    samples: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert demo.main({"model": model}, samples, FAKE) == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1].rpartition(" in ")[2])
    assert folder.parent == tmp_path
    assert [path.name for path in folder.iterdir()] == ["one-REGION_TO_CATEGORY.png"]


def test_the_embedded_checkpoint_on_bundled_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of them, with the real worker: the answers are right, and their boxes are in the drawn copies."""
    listed = json.loads((demo.SAMPLES / "truth.json").read_text(encoding="utf-8"))["pictures"]
    folder, out = tmp_path / "samples", tmp_path / "drawn"
    folder.mkdir()
    chosen = [{**one, "asked": [q for q in one["asked"] if q["prompt"] in ("<CAPTION>", "<OD>")]} for one in listed[:2]]
    (folder / "truth.json").write_text(json.dumps({"pictures": chosen}))
    for one in chosen:
        (folder / one["file"]).write_bytes((demo.SAMPLES / one["file"]).read_bytes())
    assert demo.main({"model": "demo", "device": "cpu"}, folder, out=out) == 0
    said = capsys.readouterr().out
    assert re.search(r"^all +(\d+) +\1$", said, re.MULTILINE), said
    drawn = sorted(out.iterdir())
    assert [path.name for path in drawn] == sorted(f"{Path(one['file']).stem}-OD.png" for one in chosen)
    for path, one in zip(drawn, sorted(chosen, key=lambda one: str(one["file"])), strict=True):
        with Image.open(path) as copy, Image.open(folder / one["file"]) as picture:
            assert copy.size == picture.size
            assert ImageChops.difference(copy.convert("RGB"), picture.convert("RGB")).getbbox() is not None


def failure(capsys: pytest.CaptureFixture[str], flags: Mapping[str, str], folder: Path) -> str:
    assert demo.main(flags, folder, FAKE, folder / "out") == 1
    err = capsys.readouterr().err
    assert err.startswith("vision-server demo: ")
    assert err.count("\n") == 1
    return err


def test_failures_are_one_line(samples: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "pictures are missing" in failure(capsys, {}, tmp_path / "nowhere")
    assert "model nope: " in failure(capsys, {"model": "nope"}, samples)
    (samples / "two.png").write_bytes(b"not a picture")
    assert "two.png: This is not a picture" in failure(capsys, {"model": model}, samples)
    (samples / "one.png").unlink()
    assert "one.png" in failure(capsys, {"model": model}, samples)
    questions = json.dumps({"pictures": [{"file": "two.png", "asked": [asked("<OD>", "", text="too much")]}]})
    Image.new("RGB", SIZE).save(samples / "two.png")
    (samples / "truth.json").write_text(questions)
    assert "the server answered 400: <OD> takes no text" in failure(capsys, {"model": model}, samples)
    assert not psutil.Process().children(recursive=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"pictures": []}',
        '{"pictures": [{}]}',
        '{"pictures": [{"file": 1, "asked": 2}]}',
        '{"pictures": [{"file": "a", "asked": []}]}',
        '{"pictures": [{"file": "a", "asked": [{"prompt": "<OD>"}]}]}',
        "\xff",
    ],
)
def test_a_damaged_list_of_samples_is_one_line(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "truth.json").write_text(text, encoding="latin-1")
    assert "install vision-server again" in failure(capsys, {}, tmp_path)


def test_a_daemon_that_dies_at_its_start_is_quoted(samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (sys.executable, "-c", "raise SystemExit('the last words')")
    assert demo.main({}, samples, command) == 1
    assert capsys.readouterr().err == "vision-server demo: the daemon did not start: the last words\n"


def test_a_row_is_cut_where_it_must() -> None:
    assert demo.row("x" * 300, "yes", "1.00 s", 100) == f"{'x' * 81}...   yes   1.00 s\n"
    assert demo.row("x" * 300, "no", "1.00 s", 10).count("x") == 43
