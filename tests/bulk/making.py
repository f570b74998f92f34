"""Sources for the tests: bundled pictures as a folder, a tar, a parquet file. Not a test."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vision_server.bulk.samples import Rules
from vision_server.training.samples import FOLDER

SCENES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".png", ".jpg"))
RULES = Rules(prompts=1, part_pictures=3, max_bytes=1 << 20)


def png(colour: str = "teal", side: int = 8) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(out, "PNG")
    return out.getvalue()


def folder(where: Path, count: int) -> Path:
    """The bundled pictures, again and again, as many as wanted."""
    where.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        scene = SCENES[number % len(SCENES)]
        (where / f"{number:03d}-{scene.name}").write_bytes(scene.read_bytes())
    return where


def tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(str(path), mode) as file:  # type: ignore[call-overload]  # the mode is a test's own
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def parquet(path: Path, columns: Mapping[str, Sequence[Any]], group: int = 100) -> Path:
    pq.write_table(pa.table(dict(columns)), path, row_group_size=group)
    return path
