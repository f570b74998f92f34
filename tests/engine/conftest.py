"""Tiny checkpoints, each written and loaded once a session: (transformers' model, ours)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import Florence2ForConditionalGeneration

from tests.engine.running import Said, play, with_policy
from tests.tiny import SHAPES, write_checkpoint
from vision_server.engine import Florence
from vision_server.engine.policy import CPU


@dataclass(frozen=True)
class Pair:
    oracle: Florence2ForConditionalGeneration
    ours: Florence
    directory: Path


@pytest.fixture(scope="session", params=SHAPES, ids=lambda shape: shape.name)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    directory = tmp_path_factory.mktemp(request.param.name)
    oracle = write_checkpoint(directory, request.param)
    return Pair(oracle, Florence.load(directory, device="cpu", dtype="float32"), directory)


@pytest.fixture(scope="session")
def one_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    directory = tmp_path_factory.mktemp("one")
    oracle = write_checkpoint(directory, SHAPES[0])
    return Pair(oracle, Florence.load(directory, device="cpu", dtype="float32"), directory)


@pytest.fixture(scope="session")
def ending(tmp_path_factory: pytest.TempPathFactory) -> Florence:
    """A model that often ends by itself, in layers of torch's own: the ones a GPU has, and a tracer can look into."""
    directory = tmp_path_factory.mktemp("ending")
    write_checkpoint(directory, SHAPES[1])
    return Florence.load(directory, device="cpu", dtype="float32", plain=True)


@pytest.fixture(scope="session")
def played(ending: Florence) -> Said:
    said = play(with_policy(ending, CPU))
    assert 16 <= len(said) < 20, "some are cancelled"
    assert {reason for _, reason in said.values()} == {"stop", "length"}
    assert max(len(ids) for ids, _ in said.values()) > 64, "buffers grow and spans go beyond the first rounded one"
    return said
