"""What the doctor says of checkpoints that come from the hub. The rest of it is tested as a process, in test_cli."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.test_listing import BASE, FILES, put
from vision_server import doctor
from vision_server.setting_models import MODELS
from vision_server.settings import Settings


def told(capsys: pytest.CaptureFixture[str], settings: Settings) -> tuple[str, list[str]]:
    report = doctor.Report()
    doctor.checkpoints(report, settings)
    return capsys.readouterr().out, report.faults


def test_what_will_be_downloaded_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, faults = told(capsys, Settings(cache_dir=tmp_path / "none" / "yet", hf_token="hf_secret"))
    assert "promptgen-large is absent on this disk: its first request fetches it, 3.3 GB" in out
    assert f"{tmp_path / 'none' / 'yet'} (" in out
    assert "hf_secret" not in out
    assert faults == []
    assert not (tmp_path / "none").exists()


def test_what_is_there_and_what_offline_mode_keeps_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(tmp_path, BASE, *FILES)
    put(tmp_path, "models--owner--name", "config.json")
    models = MODELS.parse({"promptgen-base": None, "mine": {"model": "owner/name", "revision": "v2"}, "demo": None})
    out, faults = told(capsys, Settings(model="promptgen-base", models=models, cache_dir=tmp_path, offline=True))
    assert f"promptgen-base in {folder}, 0.0 MB" in out
    assert "demo in " in out
    assert faults == [
        "model mine: owner/name at v2 is partial on this disk, and offline mode keeps it from being fetched."
    ]


def test_a_disk_without_room_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    _, faults = told(capsys, Settings(cache_dir=tmp_path))
    assert faults == [
        "model promptgen-large: MiaoshouAI/Florence-2-large-PromptGen-v2.0 at main needs 3.3 GB more, "
        "and 1.0 GB are free."
    ]


def test_models_that_cannot_be_served_are_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, faults = told(capsys, Settings(model="dmeo", cache_dir=tmp_path))
    assert len(faults) == 1
    assert "Did you mean demo?" in faults[0]
