"""`vision-server bulk` where it ends before Ray is needed, each time in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bulk.making import folder, parquet, png
from vision_server import cli


def run(tmp_path: Path, *words: str) -> int:
    (tmp_path / "none.yaml").write_text("")
    return cli.main(["bulk", *words, "--config", str(tmp_path / "none.yaml"), "--model", "demo", "--device", "cpu"])


def test_help_and_faults_of_words_import_neither_ray_nor_torch() -> None:
    code = (
        "import sys\nfrom vision_server import cli\n"
        "try:\n    cli.main(['bulk', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('ray', 'torch', 'pyarrow', 'fsspec') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "--retry-failed" in done.stdout
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["in"], "the following arguments are required: DEST, --prompt"),
        (["in", "out"], "the following arguments are required: --prompt"),
        (["in", "out", "--prompt", "OD", "--num-beams", "9"], "9 is not between 1 and 8"),
        (["in", "out", "--prompt", "OD", "--format", "csv"], "invalid choice: 'csv'"),
        (["in", "out", "--prompt", "OD", "--retry-faild"], "did you mean --retry-failed?"),
    ],
)
def test_words_that_are_wrong(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["bulk", *words])
    assert raised.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["{}/in", "{}/out", "--prompt", "nonsense"], 2, "--prompt: This prompt is not known."),
        (["{}/in", "{}/out", "--prompt", "CAPTION", "--text", "x"], 2, "none of these prompts takes a text"),
        (["{}/in", "{}/out", "--prompt", "CAPTION", "--address", "ray://h:1"], 2, "--address: say HOST:PORT"),
        (["{}/in", "{}/out", "--prompt", "CAPTION", "--address", "127.0.0.1:1"], 1, "nothing answers at 127.0.0.1:1"),
        (["{}/none", "{}/out", "--prompt", "CAPTION"], 1, "there is no {}/none."),
        (["{}/rows.parquet", "{}/out", "--prompt", "CAPTION"], 2, "Which column holds the picture?"),
        (["{}/rows.parquet", "{}/out", "--prompt", "CAPTION", "--field", "a", "--key", "z"], 2, "no column z"),
        (["{}/in", "{}/rows.parquet", "--prompt", "CAPTION"], 1, "DEST"),
    ],
)
def test_what_cannot_be_begun(
    tmp_path: Path, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder(tmp_path / "in", 1)
    parquet(tmp_path / "rows.parquet", {"a": [png()], "b": [png()]})
    assert run(tmp_path, *(word.format(tmp_path) for word in words)) == code
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("vision-server")
    assert said.format(tmp_path) in line
    assert "ray" not in sys.modules


def test_a_dest_that_answers_everything_needs_no_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(tmp_path / "in", 1)
    words = [str(tmp_path / "in"), str(tmp_path / "out"), "--prompt", "CAPTION", "--format", "jsonl"]
    (tmp_path / "out").mkdir()
    row = {"picture": "000-scene-01.jpg", "key": "000-scene-01.jpg", "prompt": "<CAPTION>", "result": "a house"}
    (tmp_path / "out" / "part-0.jsonl").write_text(json.dumps(row) + "\n")
    assert run(tmp_path, *words) == 0
    assert capsys.readouterr().err.startswith("0 answered, 0 failed, 1 were there; ")
    assert "ray" not in sys.modules


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder(tmp_path / "in", 1)
    monkeypatch.setattr("vision_server.settings.hand_down", lambda variables: None)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "vision_server.bulk.cluster", raising=False)
    assert run(tmp_path, str(tmp_path / "in"), str(tmp_path / "out"), "--prompt", "CAPTION") == 1
    err = capsys.readouterr().err
    assert "pip install 'vision-server[ray]'" in err
    assert "Traceback" not in err
