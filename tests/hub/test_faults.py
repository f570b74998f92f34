"""What the operator is told when there is nothing to download, or no way to."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from tests.hub.toy import NAME, WEIGHTS, message
from tests.hub_server import Hub, serve
from vision_server.errors import CheckpointError, LoadFailed, VisionError
from vision_server.hub import Source, fetch


@pytest.mark.parametrize(
    ("where", "status", "headers", "kind", "words"),
    [
        ("/api/", 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, CheckpointError, "token"),
        ("/resolve/", 403, {"X-Error-Code": "GatedRepo"}, CheckpointError, "gated: accept its terms"),
        ("/api/", 403, {}, CheckpointError, "may not read"),
        ("/api/", 404, {}, CheckpointError, "knows nothing of"),
        ("/api/", 429, {}, LoadFailed, "some minutes"),
        ("/api/", 500, {}, LoadFailed, r"\(500\)"),
        ("/resolve/", 500, {}, LoadFailed, r"\(500\)"),
        ("/cdn/", 503, {}, LoadFailed, r"\(503\)"),
        ("/api/", 200, {}, LoadFailed, "HF_ENDPOINT"),
    ],
)
def test_a_refusal_says_what_to_do(
    hub: Hub,
    source: Source,
    where: str,
    status: int,
    headers: dict[str, str],
    kind: type[VisionError],
    words: str,
) -> None:
    hub.refuse[where] = (status, headers)
    with pytest.raises(LoadFailed, match=words) as error:
        fetch(source)
    assert type(error.value) is kind
    message(error, source)
    hub.refuse.clear()
    assert (fetch(source) / "config.json").exists()


def test_no_such_repository_and_no_such_revision(hub: Hub, source: Source) -> None:
    with pytest.raises(CheckpointError, match="no repository someone/else") as error:
        fetch(replace(source, repository="someone/else"))
    message(error, source)
    with pytest.raises(CheckpointError, match=f"{NAME} has no revision v9") as error:
        fetch(replace(source, revision="v9"))
    message(error, source)


@pytest.mark.parametrize("name", ["florence", "a/b/c", "../up", "a/..", "a/b--c", "", "a b/c", "a/b\n"])
def test_names_that_cannot_be(source: Source, name: str) -> None:
    with pytest.raises(CheckpointError, match="no repository"):
        fetch(replace(source, repository=name))


@pytest.mark.parametrize("revision", ["../../up", "/root", "", "a\\b"])
def test_revisions_that_cannot_be(source: Source, revision: str) -> None:
    with pytest.raises(CheckpointError, match="no revision"):
        fetch(replace(source, revision=revision))


def test_without_a_network(hub: Hub, source: Source) -> None:
    with serve() as gone:
        nowhere = replace(source, endpoint=gone.url)
    with pytest.raises(LoadFailed, match="cannot be reached") as error:
        fetch(nowhere)
    message(error, nowhere)
    folder = fetch(source)
    assert fetch(nowhere) == folder


def test_offline_without_what_is_needed(hub: Hub, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadFailed, match="leave offline mode") as error:
        fetch(replace(source, offline=True))
    message(error, source)
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(LoadFailed, match="leave offline mode"):
            fetch(source)
    assert hub.seen == []


def test_a_disk_without_room_is_told_before_anything_large_is_sent(
    hub: Hub, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=len(WEIGHTS) - 1))
    with pytest.raises(LoadFailed, match="too full: 0 MB are needed, 0 MB are free") as error:
        fetch(source)
    message(error, source)
    assert hub.names() == set()


def test_a_cache_that_cannot_be_written(hub: Hub, source: Source, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be", encoding="ascii")
    with pytest.raises(LoadFailed, match="rights of its folder") as error:
        fetch(source)
    message(error, source)
