"""`vision-server models`: every name, what the settings add, and what is on disk; nobody is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vision_server import cli, listing
from vision_server.catalog import CATALOG

BASE = "models--MiaoshouAI--Florence-2-base-PromptGen-v2.0"
FILES = ("config.json", "tokenizer.json", "model.safetensors")
COMMIT = "0b03b6f15a4a211370fb204aee4e7dd48887ea37"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"cache_dir: {tmp_path / 'cache'}\n")
    return path


def listed(config: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert cli.main(["models", "--json", "--config", str(config)]) == 0
    return {line["name"]: line for line in json.loads(capsys.readouterr().out)}


def put(cache: Path, repository: str, *names: str) -> Path:
    """Files of seven bytes in a cache as the library lays it out, at the branch main."""
    place = cache / repository
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(COMMIT)
    folder = place / "snapshots" / COMMIT
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"7 bytes")
    return folder


def test_every_name_is_listed_and_the_demo_is_there(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = listed(config, capsys)
    assert list(lines) == [row.name for row in CATALOG]
    assert {line["on_disk"] for name, line in lines.items() if name != "demo"} == {"absent"}
    assert lines["demo"]["on_disk"] == "complete"
    assert lines["demo"]["on_disk_bytes"] > 1e6
    assert lines["large"]["repository"] == "microsoft/Florence-2-large"
    assert [name for name, line in lines.items() if line["served"]] == ["promptgen-large"]


def test_what_is_on_disk(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(tmp_path / "cache", BASE, *FILES)
    put(tmp_path / "cache", "models--microsoft--Florence-2-base", "config.json")
    put(tmp_path / "cache", "models--microsoft--Florence-2-large", *FILES[:2], "model.safetensors.index.json")
    lines = listed(config, capsys)
    told = {name: (line["on_disk"], line["on_disk_bytes"], line["where"]) for name, line in lines.items()}
    assert told["promptgen-base"] == ("complete", 21, str(folder))
    assert told["base"] == ("partial", 7, str(tmp_path / "cache" / "models--microsoft--Florence-2-base"))
    assert told["large"] == ("unreadable", 0, None)  # its index names no files
    assert told["large-ft"] == ("absent", 0, None)
    assert cli.main(["models", "--config", str(config)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["name", "repository", "family", "size", "on", "disk"]
    row = next(line for line in table if line.startswith("promptgen-base "))
    assert row.split()[:3] == ["promptgen-base", "MiaoshouAI/Florence-2-base-PromptGen-v2.0", "PromptGen"]
    assert row.endswith(f"1.1 GB  complete, 0.0 MB in {folder}")
    assert table[-1].startswith("These settings serve promptgen-large.")


def test_what_the_settings_add_is_listed_too(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = "models:\n  base: {revision: v2}\n  mine: {model: owner/name}\n  wrong: {model: dmeo}\n"
    config.write_text(config.read_text() + models)
    assert listing.main(True, {}, config) == 0
    captured = capsys.readouterr()
    lines = {line["name"]: line for line in json.loads(captured.out)}
    assert list(lines) == [*(row.name for row in CATALOG), "mine"]
    assert (lines["base"]["revision"], lines["base"]["family"], lines["large"]["revision"]) == (
        "v2",
        "Microsoft",
        "main",
    )
    assert (lines["mine"]["repository"], lines["mine"]["size_bytes"]) == ("owner/name", None)
    assert [name for name, line in lines.items() if line["served"]] == ["base", "mine"]
    assert captured.err.startswith("vision-server models: models: wrong: model dmeo: no checkpoint has this name")
