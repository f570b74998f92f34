"""What was added, on few requests and a tiny model: that all of the work is done and that the rows are right."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.bench import overhead
from tests.bench.checkpoints import TINY
from tests.bench.daemons import jpeg
from tests.bench.overhead import JPEG_BYTES


def test_pictures_are_jpegs_of_their_size_and_differ() -> None:
    one, other = jpeg(1, JPEG_BYTES), jpeg(2, JPEG_BYTES)
    assert one != other
    assert all(JPEG_BYTES <= len(picture) < 1.2 * JPEG_BYTES for picture in (one, other))
    with Image.open(io.BytesIO(one)) as opened:
        assert opened.format == "JPEG"
    assert len(jpeg(1)) < 30_000


@pytest.mark.timeout(900)  # it starts Python many times, which a busy machine makes long
def test_the_script_writes_rows_of_work_that_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "published", lambda name: TINY)
    target = tmp_path / "found.json"
    overhead.main(["--captions", "5", "--requests", "20", "--json", str(target)])
    rows = json.loads(target.read_text(encoding="utf-8"))
    assert [(row["name"], row["reference"], row["unit"]) for row in rows] == [
        ("added by HTTP, queue and pipe, 1 MB JPEG, median", 5.0, "ms"),
        ("`/prompts` while both cores generate, p99", 20.0, "ms"),
    ]
    for row in rows:
        assert set(row) == {"name", "ours", "reference", "unit", "ratio"}
        assert row["ratio"] == pytest.approx(row["reference"] / row["ours"], rel=0.01)
    used = re.search(r"cores that the worker used: ([\d.]+)", target.with_suffix(".md").read_text(encoding="utf-8"))
    assert used is not None
    assert float(used[1]) > 0, "the worker did nothing while /prompts was asked"
