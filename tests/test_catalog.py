"""Names, folders, and what is said when there is no checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vision_server import catalog
from vision_server.errors import BadSetting
from vision_server.tasks.registry import find


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "My Checkpoint"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    return directory


def test_a_folder_with_a_config_is_a_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = catalog.Checkpoint("My Checkpoint", folder, None)
    assert catalog.resolve(str(folder)) == expected
    assert catalog.resolve(str(folder) + os.sep) == expected
    monkeypatch.chdir(folder)
    assert catalog.resolve(".") == expected
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert catalog.resolve("~/My Checkpoint") == expected


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"holds no config\.json"):
        catalog.resolve(str(tmp_path))


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(BadSetting, match=r"no checkpoint has this name.* Did you mean demo\?"):
        catalog.resolve("dmeo")
    with pytest.raises(BadSetting, match=r"no such folder\.$"):
        catalog.resolve("microsoft/Florence-2-large")


def test_the_demo_lies_in_the_package_in_any_letter_case(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = catalog._EMBEDDED.values()
    assert row.directory == Path(catalog.__file__).parent / "models" / "demo"
    assert row.prompts is not None
    assert all(find(prompt) for prompt in row.prompts)
    present = catalog.Checkpoint("demo", folder, row.prompts)
    monkeypatch.setitem(catalog._EMBEDDED, "demo", present)
    assert catalog.resolve("demo") is catalog.resolve("Demo") is present


def test_an_incomplete_install_of_the_demo_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog._EMBEDDED, "demo", catalog.Checkpoint("demo", tmp_path, ()))
    with pytest.raises(BadSetting, match=r"model demo: .* holds no config\.json"):
        catalog.resolve("demo")
