"""Downloads by the real huggingface_hub client: which files, into which cache, and when the hub is asked at all."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.hub.toy import FILES, NAME, SMALL, WEIGHTS, bring, message
from tests.hub_server import Hub, Repository
from vision_server.errors import CheckpointError
from vision_server.hub import Source, cached, fetch, is_repository


def test_only_what_is_needed_is_fetched_and_each_byte_is_counted_once(hub: Hub, source: Source) -> None:
    folder, reports = bring(source)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {**SMALL, "model.safetensors": WEIGHTS}
    assert hub.names() == {*SMALL, "model.safetensors"}
    total = sum(len(content) for content in SMALL.values()) + len(WEIGHTS)
    assert reports[0] == (0, 0)
    assert reports[-1] == (total, total)
    told = [one for one in reports if one[1]]
    assert {one[1] for one in told} == {total}
    assert told == sorted(told)
    assert len({done for done, _ in told}) > len(SMALL) + 1  # within the large file, too
    assert not list(folder.parents[2].rglob("*.incomplete"))


def test_the_cache_is_the_librarys_own(hub: Hub, source: Source) -> None:
    folder = fetch(source)
    hub.refuse["/"] = (500, {})
    found = huggingface_hub.snapshot_download(
        NAME, cache_dir=source.cache, local_files_only=True, allow_patterns=["*.safetensors"]
    )
    assert Path(found) == folder


def test_what_is_complete_is_used_without_asking_the_hub(hub: Hub, source: Source) -> None:
    folder = fetch(source)
    hub.seen.clear()
    assert bring(source) == (folder, [])
    assert bring(replace(source, offline=True), refresh=True) == (folder, [])
    assert cached(source) == folder
    assert hub.seen == []


def test_a_refresh_follows_the_revision_and_fetches_what_changed(hub: Hub, source: Source) -> None:
    old = fetch(source)
    hub.repositories[NAME].push("main", {**FILES, "config.json": b'{"newer": true}'})
    hub.seen.clear()
    assert fetch(source) == old
    new = fetch(source, refresh=True)
    assert new != old
    assert (new / "config.json").read_bytes() == b'{"newer": true}'
    assert (new / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.names() == {"config.json"}
    assert cached(source) == new


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: Hub, source: Source) -> None:
    commit = hub.repositories[NAME].push("refs/pr/1", {**FILES, "config.json": b'{"branch": 1}'})
    main = fetch(source)
    branch = fetch(replace(source, revision="refs/pr/1"))
    assert (main / "config.json").read_bytes() == SMALL["config.json"]
    assert (branch / "config.json").read_bytes() == b'{"branch": 1}'
    assert cached(replace(source, revision=commit)) == branch == fetch(replace(source, revision=commit))
    assert cached(replace(source, revision="refs/pr/1")) == branch
    assert cached(source) == main


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_shards_are_fetched_by_their_index(hub: Hub, source: Source, kind: str) -> None:
    stem, _, ending = kind.rpartition(".")
    shards = {f"{stem}-0000{i}-of-00002.{ending}": WEIGHTS[i * 1000 :] for i in (1, 2)}
    index = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()
    weights = {f"{kind}.index.json": index, **shards}
    surplus = {"pytorch_model.bin": b"x"} if ending == "safetensors" else {}
    hub.repositories[NAME] = Repository({**SMALL, **weights, **surplus, "model-00001-of-00002.gguf": b"other"})
    folder, reports = bring(source)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {**SMALL, **weights}
    assert reports[-1][0] == reports[-1][1] == sum(len(content) for content in (SMALL | weights).values())
    assert cached(source) == folder
    (folder / next(iter(shards))).unlink()
    assert cached(source) is None


def test_an_index_cannot_reach_beyond_the_repository(hub: Hub, source: Source) -> None:
    index = json.dumps({"weight_map": {"a": "../../../outside.safetensors"}}).encode()
    hub.repositories[NAME] = Repository({**SMALL, "model.safetensors.index.json": index})
    with pytest.raises(CheckpointError, match="does not say which files") as error:
        fetch(source)
    message(error, source)


def test_bin_is_taken_where_there_is_no_safetensors(hub: Hub, source: Source) -> None:
    hub.repositories[NAME] = Repository({**SMALL, "pytorch_model.bin": b"tensors"})
    folder = fetch(source)
    assert (folder / "pytorch_model.bin").read_bytes() == b"tensors"


@pytest.mark.parametrize("lacking", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_repository_without_a_checkpoint(hub: Hub, source: Source, lacking: str) -> None:
    files = {name: content for name, content in (SMALL | {"model.safetensors": WEIGHTS}).items() if name != lacking}
    hub.repositories[NAME] = Repository(files)
    with pytest.raises(CheckpointError, match=lacking) as error:
        fetch(source)
    message(error, source)
    assert hub.names() == set()


def test_the_form_of_a_name() -> None:
    assert is_repository("MiaoshouAI/Florence-2-large-PromptGen-v2.0")
    assert not any(is_repository(name) for name in ("demo", "./folder", "/some/folder", "a/b/c"))


def test_the_librarys_own_variables_are_heeded(hub: Hub, tmp_path: Path) -> None:
    """A process of its own, as the library reads them once: HF_ENDPOINT, HF_HOME and HF_TOKEN."""
    home = tmp_path / "home"
    code = f"import sys; from vision_server.hub import Source, fetch; sys.stdout.write(str(fetch(Source({NAME!r}))))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_from_environment",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HOME": str(tmp_path / "nobody"),
            "OMP_NUM_THREADS": "1",
        },
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    folder = Path(done.stdout)
    assert folder.is_relative_to(home / "hub" / "models--someone--florence")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.gets("config.json")[0].token == "Bearer hf_from_environment"
    assert not (tmp_path / "nobody").exists()


def test_the_module_alone_does_not_load_the_library() -> None:
    code = "import sys, vision_server.hub; assert not {'huggingface_hub', 'httpx2', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=120, check=True)


def test_the_hub_learns_of_us_no_more_than_a_download_needs(
    hub: Hub, source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    with caplog.at_level("INFO"):
        fetch(replace(source, token="hf_secret"))
    assert len(hub.seen) > len(SMALL)
    assert not [one for one in hub.seen if "torch" in one.agent or "agent/" in one.agent]
    assert hub.url not in caplog.text
    assert "hf_secret" not in caplog.text


def test_what_is_downloaded_and_what_the_cache_has_is_logged(
    hub: Hub, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        folder = fetch(source)
        fetch(source)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("vision_server")][:2] == [
        f"downloading {NAME}, revision main",
        f"{NAME} is here, commit {folder.name[:12]}",
    ]
    assert f"{NAME} is complete in the cache, commit {folder.name[:12]}: the hub is not asked" in caplog.text


def test_each_answer_of_the_hub_is_an_advance(hub: Hub, source: Source) -> None:
    """Many slow answers in a row are no stall, so each is reported before the first byte of a file."""
    _, reports = bring(source)
    assert reports[: len(SMALL) + 2] == [(0, 0)] * (len(SMALL) + 2)
