"""Tiny checkpoints, each written and loaded once a session: (transformers' model, ours)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import Florence2ForConditionalGeneration

from tests.tiny import SHAPES, write_checkpoint
from vision_server.engine import Florence


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
