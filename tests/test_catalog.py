"""Names, folders, repositories, and what is said when there is no checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vision_server import catalog, settings
from vision_server.catalog import CATALOG, Checkpoint, resolve
from vision_server.errors import BadSetting
from vision_server.hub import is_repository
from vision_server.tasks.registry import find


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "My Checkpoint"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    return directory


def test_the_rows_are_sound() -> None:
    names = [row.name for row in CATALOG]
    repositories = [row.repository for row in CATALOG if row.repository]
    assert len(set(names)) == len(names)
    assert len(set(repositories)) == len(repositories) == len(names) - 1
    assert names == [name.lower() for name in names]
    assert names[0] == settings.DEFAULT_MODEL == "promptgen-large"
    for row in CATALOG:
        assert row.family
        assert row.prompts is None or all(find(prompt) for prompt in row.prompts)
        assert row.name == "demo" or (is_repository(row.repository or "") and (row.size_bytes or 0) > 1e8)


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("promptgen-large", "MiaoshouAI/Florence-2-large-PromptGen-v2.0"),
        ("promptgen-base", "MiaoshouAI/Florence-2-base-PromptGen-v2.0"),
        ("base", "microsoft/Florence-2-base"),
        ("large", "microsoft/Florence-2-large"),
        ("base-ft", "microsoft/Florence-2-base-ft"),
        ("LARGE-ft", "microsoft/Florence-2-large-ft"),
        ("base-native", "florence-community/Florence-2-base"),
    ],
)
def test_a_short_name_is_a_repository(name: str, repository: str) -> None:
    found = resolve(name, "v1")
    assert (found.name, found.repository, found.revision) == (name.lower(), repository, "v1")


def test_what_only_version_2_was_trained_for() -> None:
    older, newer = resolve("promptgen-large-v1.5").prompts, resolve("promptgen-large").prompts
    assert older is not None
    assert newer is not None
    assert set(newer) - set(older) == {"<ANALYZE>", "<MIXED_CAPTION_PLUS>"}


def test_any_repository_can_be_named_and_a_known_one_keeps_its_prompts() -> None:
    assert resolve("someone/florence") == Checkpoint("someone/florence", repository="someone/florence")
    known = resolve("miaoshouai/florence-2-base-promptgen-v2.0")
    assert known.name == known.repository == "MiaoshouAI/Florence-2-base-PromptGen-v2.0"
    assert known.prompts == resolve("promptgen-base").prompts


def test_a_folder_with_a_config_is_a_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Checkpoint("My Checkpoint", folder)
    assert resolve(str(folder)) == expected
    assert resolve(str(folder) + os.sep) == expected
    monkeypatch.chdir(folder)
    assert resolve(".") == expected
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert resolve("~/My Checkpoint") == expected


def test_a_folder_that_looks_like_a_repository_is_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "config.json").write_text("{}")
    assert resolve("owner/name").repository == "owner/name"
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/name").directory == tmp_path / "owner" / "name"


def test_a_folder_without_a_config_or_with_a_revision_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(BadSetting, match=r"holds no config\.json"):
        resolve(str(tmp_path))
    with pytest.raises(BadSetting, match="a folder has no revisions"):
        resolve(str(folder), "v2")
    with pytest.raises(BadSetting, match=r"'\.\./v2' is no revision"):
        resolve("base", "../v2")


@pytest.mark.parametrize(
    ("name", "nearest"), [("dmeo", "demo"), ("Promptgen-lrge", "promptgen-large"), ("bse", "base")]
)
def test_an_unknown_name_suggests_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(BadSetting, match=rf"model {name}: no checkpoint has this name.* Did you mean {nearest}\?$"):
        resolve(name)


@pytest.mark.parametrize("name", ["xyzzy", "./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_name_like_no_other_is_told_where_the_names_are(name: str) -> None:
    with pytest.raises(BadSetting, match=r"no such folder\. `vision-server models` lists the names\.$"):
        resolve(name)


def test_the_demo_lies_in_the_package_in_any_letter_case() -> None:
    assert resolve("Demo") == resolve("demo") == CATALOG[-1]
    assert resolve("demo").directory == Path(catalog.__file__).parent / "models" / "demo"


def test_an_incomplete_install_of_the_demo_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "CATALOG", (Checkpoint("demo", tmp_path),))
    with pytest.raises(BadSetting, match=r"model demo: .* holds no config\.json"):
        resolve("demo")
