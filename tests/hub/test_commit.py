"""How the bytes travel: cut, slow, stalled, damaged, on a full disk, beside another program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from tests.hub.toy import NAME, SMALL, WEIGHTS, bring, message
from tests.hub_server import Hub, Misbehaviour
from vision_server.errors import LoadFailed
from vision_server.hub import Source, cached, commit, fetch


def test_a_cut_connection_is_taken_up_where_it_broke(hub: Hub, source: Source) -> None:
    hub.misbehaviour["model.safetensors"] = Misbehaviour(cut_at=[50_000, 120_000])
    folder, reports = bring(source)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [one.range for one in hub.gets("model.safetensors")] == [None, "bytes=50000-", "bytes=120000-"]
    assert reports == sorted(reports)


def test_the_next_call_goes_on_with_what_the_last_one_got(hub: Hub, source: Source) -> None:
    hub.misbehaviour["model.safetensors"] = Misbehaviour(cut_at=[50_000, 50_000])
    with pytest.raises(LoadFailed, match="connection was cut") as error:
        fetch(source)
    message(error, source)
    assert cached(source) is None
    hub.seen.clear()
    folder, reports = bring(source)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.names() == {"model.safetensors"}  # the others are there
    assert [one.range for one in hub.gets("model.safetensors")] == ["bytes=50000-"]
    assert reports[-1][0] == reports[-1][1]


def test_a_refresh_that_is_cut_leaves_what_was_there(hub: Hub, source: Source) -> None:
    old = fetch(source)
    newer = WEIGHTS[::-1]
    hub.repositories[NAME].push("main", {**SMALL, "config.json": b"{}", "model.safetensors": newer})
    hub.misbehaviour["model.safetensors"] = Misbehaviour(cut_at=[50_000, 50_000])
    with pytest.raises(LoadFailed, match="connection was cut"):
        fetch(source, refresh=True)
    assert cached(source) == fetch(source) == old
    assert (fetch(source, refresh=True) / "model.safetensors").read_bytes() == newer
    assert hub.gets("model.safetensors")[-1].range == "bytes=50000-"


def test_an_origin_that_ignores_ranges_is_read_from_the_start(hub: Hub, source: Source) -> None:
    hub.misbehaviour["model.safetensors"] = Misbehaviour(cut_at=[50_000], ignore_range=True)
    folder = fetch(source)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [one.range for one in hub.gets("model.safetensors")] == [None, "bytes=50000-"]


def test_a_download_can_be_ended_from_its_report(hub: Hub, source: Source) -> None:
    def report(phase: str, done: int, total: int) -> None:
        if done > 100_000:
            raise LoadFailed("enough.")

    with pytest.raises(LoadFailed, match="enough"):
        fetch(source, report)
    hub.seen.clear()
    assert (fetch(source) / "model.safetensors").read_bytes() == WEIGHTS
    asked = hub.gets("model.safetensors")[0].range
    assert asked is not None
    assert int(asked.removeprefix("bytes=").removesuffix("-")) > 90_000


def test_a_stall_is_an_error_and_the_bytes_are_kept(hub: Hub, source: Source) -> None:
    hub.misbehaviour["model.safetensors"] = Misbehaviour(stall_at=80_000)
    with pytest.raises(LoadFailed, match="stood still") as error:
        fetch(replace(source, stall_timeout_s=0.5))
    message(error, source)
    hub.misbehaviour.clear()
    assert (fetch(source) / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.gets("model.safetensors")[-1].range == "bytes=80000-"


def test_slow_is_not_stalled(hub: Hub, source: Source) -> None:
    """Longer than the stall timeout all in all, and never that long without a byte."""
    hub.misbehaviour["model.safetensors"] = Misbehaviour(gap_s=0.3, pieces=9)
    assert (fetch(replace(source, stall_timeout_s=2.0)) / "model.safetensors").read_bytes() == WEIGHTS
    assert len(hub.gets("model.safetensors")) == 1


@pytest.mark.parametrize("how", [Misbehaviour(corrupt=True), Misbehaviour(surplus=b"more than was said")])
def test_what_arrives_damaged_is_thrown_away(hub: Hub, source: Source, how: Misbehaviour) -> None:
    hub.misbehaviour["model.safetensors"] = how
    with pytest.raises(LoadFailed, match="arrived damaged") as error:
        fetch(source)
    message(error, source)
    assert cached(source) is None
    hub.misbehaviour.clear()
    assert (fetch(source) / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.gets("model.safetensors")[-1].range is None


def test_the_token_goes_to_the_hub_and_to_no_other_origin(hub: Hub, source: Source) -> None:
    signed = replace(source, token="hf_secret")
    fetch(signed)
    assert "hf_secret" not in repr(signed)
    at_hub = {one.token for one in hub.seen if not one.path.startswith("/cdn/")}
    elsewhere = {one.token for one in hub.seen if one.path.startswith("/cdn/")}
    assert (at_hub, elsewhere) == ({"Bearer hf_secret"}, {None})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_becomes_full(hub: Hub, source: Source) -> None:
    assert source.cache is not None
    etag = hub.repositories[NAME].etag("model.safetensors", WEIGHTS)
    blobs = source.cache / "models--someone--florence" / "blobs"
    blobs.mkdir(parents=True)
    part = blobs / f"{etag}.vision-server.incomplete"
    part.symlink_to("/dev/full")
    with pytest.raises(LoadFailed, match="disk became full") as error:
        fetch(source)
    message(error, source)
    part.unlink()
    assert (fetch(source) / "model.safetensors").read_bytes() == WEIGHTS


@pytest.fixture
def others_lock(hub: Hub, source: Source, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ExitStack, Path]]:
    """Another program holds the library's lock on the weights, until the stack is closed; and where they will lie."""
    assert source.cache is not None
    monkeypatch.setattr(commit, "_LOCK_POLL_S", 0.1)
    etag = hub.repositories[NAME].etag("model.safetensors", WEIGHTS)
    lock = source.cache / ".locks" / "models--someone--florence" / f"{etag}.lock"
    lock.parent.mkdir(parents=True)
    with ExitStack() as stack:
        stack.enter_context(WeakFileLock(lock))
        yield stack, source.cache / "models--someone--florence" / "blobs" / etag


def test_another_program_that_stands_still_is_not_waited_for(
    hub: Hub, source: Source, others_lock: tuple[ExitStack, Path]
) -> None:
    with pytest.raises(LoadFailed, match=r"Another program holds model\.safetensors") as error:
        fetch(replace(source, stall_timeout_s=0.5))
    message(error, source)
    assert hub.gets("model.safetensors") == []
    others_lock[0].close()
    assert (fetch(source) / "model.safetensors").read_bytes() == WEIGHTS


def test_another_programs_download_is_waited_for_as_long_as_it_grows(
    hub: Hub, source: Source, others_lock: tuple[ExitStack, Path]
) -> None:
    stack, blob = others_lock
    part = blob.with_name(f"{blob.name}.vision-server.incomplete")
    small = sum(len(content) for content in SMALL.values())
    waits: list[int] = []

    def report(phase: str, done: int, total: int) -> None:
        """Each time, the other one has some more; then it has all, and lets go."""
        if total and done >= small and not blob.exists() and not hub.gets("model.safetensors"):
            waits.append(done - small)
            part.write_bytes(WEIGHTS[: 1000 * len(waits)])
            if len(waits) == 12:
                blob.write_bytes(WEIGHTS)
                part.unlink()
                stack.close()

    folder = fetch(replace(source, stall_timeout_s=0.8), report)
    assert waits == [0, 0, *range(2000, 12_000, 1000)]  # the first is the end of the small files
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.gets("model.safetensors") == []
