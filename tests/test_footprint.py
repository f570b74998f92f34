"""What the files of a checkpoint say of it, and that files which say nothing do no harm."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from vision_server.catalog import EMBEDDED, Checkpoint, resolve
from vision_server.footprint import footprint, positions


def weights(header: Any) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def folder(tmp_path: Path, **files: bytes) -> Checkpoint:
    for name, data in files.items():
        (tmp_path / name.replace("__", ".")).write_bytes(data)
    return Checkpoint("mine", directory=tmp_path)


def test_the_embedded_checkpoint() -> None:
    found = footprint(resolve("demo"))
    assert found.size_bytes == sum(path.stat().st_size for path in EMBEDDED.iterdir())
    assert (found.parameters, found.dtype, found.positions) == (6_055_600, "F16", 256)


def test_shards_are_added_up_and_a_change_is_seen(tmp_path: Path) -> None:
    one = weights({"a": {"dtype": "F16", "shape": [2, 3]}, "__metadata__": {"format": "pt"}})
    two = weights({"b": {"dtype": "F32", "shape": [4]}, "c": {"dtype": "F16", "shape": []}})
    checkpoint = folder(tmp_path, one__safetensors=one, two__safetensors=two)
    first = footprint(checkpoint)
    assert (first.parameters, first.dtype, first.positions) == (11, "F16", None)
    assert (first.size_bytes, len(first.digest)) == (len(one) + len(two), 64)
    assert footprint(checkpoint) == first
    (tmp_path / "two.safetensors").write_bytes(weights({"b": {"dtype": "F32", "shape": [40]}}))
    os.utime(tmp_path / "two.safetensors", (2e9, 2e9))
    second = footprint(checkpoint)
    assert (second.parameters, second.dtype, second.modified_s) == (46, "F32", 2e9)
    assert second.digest != first.digest


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 8,
        struct.pack("<Q", 4) + b"{}",
        weights([1]),
        weights({"a": 7}),
        weights({"a": {"dtype": "F16", "shape": "x"}}),
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
)
def test_weights_that_are_none(tmp_path: Path, data: bytes) -> None:
    found = footprint(folder(tmp_path, model__safetensors=data, config__json=data))
    assert (found.parameters, found.dtype, found.positions, found.size_bytes) == (None, None, None, 2 * len(data))


def test_a_folder_that_is_gone_and_a_checkpoint_on_the_hub(tmp_path: Path) -> None:
    assert footprint(Checkpoint("mine", directory=tmp_path / "nowhere")).size_bytes == 0
    base, other = footprint(resolve("base")), footprint(resolve("base", "refs/pr/6"))
    assert base.size_bytes == 468_000_000
    assert base.digest != other.digest
    assert base.modified_s is None
    assert (positions(resolve("demo")), positions(resolve("base"))) == (256, None)
