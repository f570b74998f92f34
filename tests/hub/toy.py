"""The repository that the tests of the hub download, and how they ask for it. Holds no tensor."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from vision_server.errors import VisionError
from vision_server.hub import PHASE, Source, fetch

NAME = "someone/florence"
WEIGHTS = random.Random(3).randbytes(200_000)
SMALL = {
    "config.json": b'{"model_type": "florence2"}',
    "tokenizer.json": b'{"model": {"type": "BPE"}}',
    "generation_config.json": b'{"num_beams": 3}',
    "preprocessor_config.json": b"{}",
}
UNWANTED = {
    "modeling_florence2.py": b"raise SystemExit",
    "README.md": b"# model",
    "pytorch_model.bin": b"pickled",
    "sub/model.safetensors": b"another",
}
FILES = {**SMALL, **UNWANTED, "model.safetensors": WEIGHTS}

Reports = list[tuple[int, int]]


def bring(source: Source, *, refresh: bool = False) -> tuple[Path, Reports]:
    reports: Reports = []

    def report(phase: str, done: int, total: int) -> None:
        assert phase == PHASE
        reports.append((done, total))

    return fetch(source, report, refresh=refresh), reports


def message(error: pytest.ExceptionInfo[VisionError], source: Source) -> str:
    """What the operator reads: never a path, never an address, never the library's advice."""
    text = str(error.value)
    for secret in (str(source.cache), "/blobs/", "127.0.0.1", "http", "force_download", "Traceback", "repo_id"):
        assert secret not in text
    assert text.endswith(".")
    return text
