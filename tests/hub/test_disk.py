"""What is said of the cache without asking the hub: complete, partial, absent, how much and where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.hub.toy import NAME, SMALL, WEIGHTS
from tests.hub_server import Hub, Misbehaviour
from vision_server.errors import CheckpointError, LoadFailed
from vision_server.hub import Presence, Source, cache_folder, fetch, is_offline, is_revision, presence

SMALL_BYTES = sum(len(content) for content in SMALL.values())


def place(source: Source) -> Path:
    assert source.cache is not None
    return source.cache / "models--someone--florence"


def test_absent_partial_complete(hub: Hub, source: Source) -> None:
    assert presence(source) == Presence("absent", place(source), 0)
    assert not place(source).exists()
    hub.misbehaviour["model.safetensors"] = Misbehaviour(cut_at=[50_000, 50_000])
    with pytest.raises(LoadFailed):
        fetch(source)
    assert presence(source) == Presence("partial", place(source), SMALL_BYTES + 50_000)
    folder = fetch(source)
    asked = len(hub.seen)
    assert presence(source) == Presence("complete", folder, SMALL_BYTES + len(WEIGHTS))
    assert presence(replace(source, revision="v2")) == Presence("partial", place(source), SMALL_BYTES + len(WEIGHTS))
    assert len(hub.seen) == asked


def test_a_name_that_cannot_be_one(source: Source) -> None:
    with pytest.raises(CheckpointError, match="is no repository"):
        presence(replace(source, repository="no-owner"))


def test_the_cache_is_the_chosen_folder_or_the_librarys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "library"))
    assert cache_folder(None) == tmp_path / "library"
    assert cache_folder(tmp_path / "mine") == tmp_path / "mine"


def test_offline_is_the_settings_or_the_librarys_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for ours, theirs in ((False, False), (False, True), (True, False)):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", theirs)
        assert is_offline(Source(NAME, offline=ours)) == (ours or theirs)


def test_the_form_of_a_revision() -> None:
    assert all(map(is_revision, ("main", "v2.0", "refs/pr/1", "0b03b6f15a4a211370fb204aee4e7dd48887ea37")))
    assert not any(map(is_revision, ("", "../main", "a/../b", "-x", "a b")))
