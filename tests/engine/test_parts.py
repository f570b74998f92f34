"""A load with parts that were made ahead, against one without; and files that have changed since."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.engine.conftest import Pair
from tests.tiny import picture
from vision_server.engine import Florence, Parts
from vision_server.engine.config import read_config
from vision_server.errors import CheckpointError


@pytest.fixture
def directory(one_pair: Pair, tmp_path: Path) -> Path:
    return Path(shutil.copytree(one_pair.directory, tmp_path / "checkpoint"))


def load(directory: Path, parts: Parts | None) -> Florence:
    return Florence.load(directory, "cpu", "float32", parts=parts)


def test_the_answers_are_the_same_and_the_parts_are_used(directory: Path, one_pair: Pair) -> None:
    parts = Parts.of(directory)
    assert all(parameter.is_meta for parameter in parts.network.parameters())
    florence = load(directory, parts)
    assert (florence.network, florence.tokenizer) == (parts.network, parts.tokenizer)
    asked = [(picture(seed), "What does the image describe?") for seed in range(3)]
    expected = [answer.token_ids for answer in one_pair.ours.generate(asked, max_new_tokens=20)]
    assert [answer.token_ids for answer in florence.generate(asked, max_new_tokens=20)] == expected


@pytest.mark.parametrize("changed", ["another folder", "config", "tokenizer", "no tokenizer"])
def test_parts_of_other_files_are_not_used(directory: Path, tmp_path: Path, changed: str) -> None:
    parts = Parts.of(directory)
    assert parts.fit(directory, read_config(directory))
    if changed == "another folder":
        directory = directory.rename(tmp_path / "another")
    elif changed == "config":
        path = directory / "generation_config.json"
        config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps({**config, "forced_bos_token_id": 5}), encoding="utf-8")
    elif changed == "tokenizer":
        os.utime(directory / "tokenizer.json", ns=(1, 1))
    else:
        (directory / "tokenizer.json").unlink()
        with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
            load(directory, parts)
        return
    florence = load(directory, parts)
    assert florence.network is not parts.network
    assert florence.tokenizer is not parts.tokenizer


def test_files_that_are_no_checkpoint_have_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        Parts.of(tmp_path)
