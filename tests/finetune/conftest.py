"""A small random checkpoint, its pictures, and rows about them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from tests.tiny import SHAPES, picture, write_checkpoint

SAYINGS = ("a car", "two cars and a tree", "a fish", "a red sign that says open", "a green house", "a tree", "sign")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Native layout; nobody writes into it."""
    directory = tmp_path_factory.mktemp("taught") / "tiny"
    directory.mkdir()
    write_checkpoint(directory, SHAPES[0])
    return directory


@pytest.fixture(scope="session")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 pictures and 18 rows: captions, and boxes for every other one."""
    folder = tmp_path_factory.mktemp("lessons")
    rows: list[dict[str, Any]] = []
    for number in range(12):
        name = f"{number}.png"
        picture(number).save(folder / name)
        rows.append({"image": name, "prompt": "CAPTION", "answer": SAYINGS[number % len(SAYINGS)]})
        if number % 2:
            boxes = {"bboxes": [[1, 2, 30 + number, 40]], "labels": ["car"]}
            rows.append({"image": name, "prompt": "<OD>", "answer": boxes})
    path = folder / "lessons.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def another_accelerator() -> Iterator[None]:
    """accelerate keeps what a process began with; each test begins anew."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
