"""Folders, tars and parquet files read as a task reads them: what is there, and each fault a row of its own."""

from __future__ import annotations

import http.server
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.bulk.making import RULES, parquet, png, tar
from vision_server.bulk.reading import read, rows_of
from vision_server.bulk.samples import Rules
from vision_server.bulk.sources import Piece, list_files, pieces
from vision_server.bulk.tables import READ, Read
from vision_server.errors import BadInput

from .test_sources import Known

PICTURE = png()


def read_all(source: Path | str, rules: Rules = RULES, known: Known | None = None) -> list[Read]:
    made = pieces(str(source), list_files(str(source), "/nowhere"), known or Known(), rules.prompts, 3)
    return [row for piece in made for row in rows_of(piece, rules)]


def told(rows: list[Read]) -> list[tuple[str, str | None]]:
    """The pictures with their errors, without the ends."""
    return [(row.picture, row.error) for row in rows if row.of is None]


def test_a_folder(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(PICTURE)
    (tmp_path / "big.png").write_bytes(PICTURE + bytes(RULES.max_bytes))
    listed = list_files(str(tmp_path), "/nowhere")
    (tmp_path / "b.png").unlink()
    [first, second] = pieces(str(tmp_path), listed, Known(), 1, 3)
    rows = [*rows_of(first, RULES), *rows_of(second, RULES)]
    assert told(rows) == [
        ("a.png", None), ("b.png", "unreadable"), ("big.png", "too_large"), ("c.png", None), ("d.png", None),
    ]  # fmt: skip
    assert [(row.part, row.of) for row in rows if row.of] == [(first.part, 3), (second.part, 2)]
    assert [row.place for row in rows if row.of is None] == [0, 1, 2, 0, 1]
    assert all(row.data == PICTURE for row in rows if row.of is None and not row.error)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar_whatever_its_compression(tmp_path: Path, mode: str) -> None:
    suffix = ".tar" + mode[1:].replace(":", ".")
    members = [
        ("a.json", b"{}"),
        ("a.png", PICTURE),
        ("deep/b.PNG", PICTURE),
        ("README", b"no sample"),
        ("c.png", PICTURE),
    ]
    tar(tmp_path / f"s{suffix}", [*members, ("d.png", PICTURE)], mode)
    rows = read_all(tmp_path)
    file = f"s{suffix}"
    assert told(rows) == [(f"{file}#{key}", None) for key in ("a", "deep/b", "c", "d")]
    assert [row.key for row in rows if row.of is None] == ["a", "deep/b", "c", "d"]
    parts = list(dict.fromkeys(row.part for row in rows if row.part))
    assert [row.of for row in rows if row.of] == [3, 1, 4]
    assert [part[-6:] for part in parts] == ["-00000", "-00001"]
    assert all(row.data == PICTURE for row in rows if row.of is None)


def test_faults_in_a_tar_are_rows(tmp_path: Path) -> None:
    tar(
        tmp_path / "s.tar",
        [
            ("a.png", PICTURE), ("b.txt", b"no picture"), ("c.png", PICTURE), ("c.jpg", PICTURE),
            ("big.png", bytes(RULES.max_bytes + 1)), ("a.png", PICTURE), ("e.png", PICTURE), ("e.png", PICTURE),
        ],
    )  # fmt: skip
    assert told(read_all(tmp_path)) == [
        ("s.tar#a", None), ("s.tar#b", "bad_image"), ("s.tar#c", "bad_image"), ("s.tar#big", "too_large"),
        ("s.tar#a (2)", "duplicate_key"), ("s.tar#e", None), ("s.tar#e (2)", "duplicate_key"),
    ]  # fmt: skip
    assert ("s.tar#c", None) in told(read_all(tmp_path, replace(RULES, field="JPG")))


@pytest.mark.parametrize("keep", [0, 100, 700, 2700])
def test_a_tar_that_ends_early_is_read_up_to_there(tmp_path: Path, keep: int) -> None:
    whole = tar(tmp_path / "s.tar", [("a.png", PICTURE), ("b.png", PICTURE * 20), ("c.png", PICTURE)])
    whole.write_bytes(whole.read_bytes()[:keep])
    rows = read_all(tmp_path)
    read_before = [name for name, error in told(rows) if error is None]
    assert read_before == (["s.tar#a"] if keep > 2000 else [])
    assert told(rows)[-1] == ("s.tar", "bad_file")
    assert rows[-1].of == len(read_before)


def test_what_is_answered_is_not_handed_on(tmp_path: Path) -> None:
    tar(tmp_path / "s.tar", [("a.png", PICTURE), ("b.png", PICTURE)])
    rows = read_all(tmp_path, replace(RULES, prompts=2), Known({"s.tar#a": {0, 1}, "s.tar#b": {0}}))
    assert [(row.picture, row.prompts) for row in rows if row.of is None] == [("s.tar#b", [1])]
    assert [row.of for row in rows if row.of is not None] == [1, 2]


def test_parquet_by_its_only_column_of_bytes_and_by_name(tmp_path: Path) -> None:
    parquet(tmp_path / "one.parquet", {"id": [7, 8], "picture": [PICTURE, None]})
    assert told(read_all(tmp_path)) == [("one.parquet#0", None), ("one.parquet#1", "bad_image")]
    named = read_all(tmp_path, replace(RULES, key="id"))
    assert [row.key for row in named if row.of is None] == ["7", "8"]
    hugging: dict[str, list[Any]] = {"image": [{"bytes": PICTURE, "path": "a.png"}], "other": [b"x"], "id": [None]}
    parquet(tmp_path / "one.parquet", hugging)
    [row, *_] = read_all(tmp_path, replace(RULES, field="image"))
    assert (row.picture, row.data) == ("one.parquet#0", PICTURE)
    assert told(read_all(tmp_path, replace(RULES, field="image", key="id"))) == [("one.parquet#row 0", "bad_input")]


def test_the_same_key_twice_and_too_large_a_picture_in_parquet(tmp_path: Path) -> None:
    big = bytes(RULES.max_bytes + 1)
    parquet(tmp_path / "p.parquet", {"id": ["x", "x", "y"], "image": [PICTURE, PICTURE, big]})
    assert told(read_all(tmp_path, replace(RULES, key="id"))) == [
        ("p.parquet#x", None), ("p.parquet#x (2)", "duplicate_key"), ("p.parquet#y", "too_large"),
    ]  # fmt: skip


def test_a_damaged_group_of_rows_costs_only_its_own(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", {"image": [bytes([n]) * 500 for n in range(6)]}, group=2)
    place = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[place : place + 12] = b"\xff" * 12
    path.write_bytes(bytes(data))
    assert told(read_all(tmp_path)) == [
        *((f"p.parquet#{n}", None) for n in (0, 1)),
        *((f"p.parquet#{n}", "unreadable") for n in (2, 3)),
        *((f"p.parquet#{n}", None) for n in (4, 5)),
    ]


@pytest.mark.parametrize(
    ("columns", "rules", "said"),
    [
        ({"a": [b"x"], "b": [b"x"]}, RULES, "columns of bytes are a, b"),
        ({"a": [1]}, RULES, "its columns are a"),
        ({"a": [1], "b": [b"x"]}, replace(RULES, field="a"), "The column a holds no bytes"),
        ({"b": [b"x"]}, replace(RULES, key="id"), "There is no column id; the columns are b"),
    ],
)
def test_a_parquet_file_without_what_is_named(
    tmp_path: Path, columns: dict[str, list[Any]], rules: Rules, said: str
) -> None:
    parquet(tmp_path / "p.parquet", columns)
    [row, *_] = read_all(tmp_path, rules)
    assert (row.picture, row.error) == ("p.parquet", "bad_file")
    assert said in (row.message or "")
    assert BadInput.__name__ not in (row.message or "")


def test_what_is_no_parquet_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"PAR1 and no more")
    assert told(read_all(tmp_path)) == [("p.parquet", "bad_file")]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_tar_and_a_parquet_file_by_http(tmp_path: Path, web: str) -> None:
    tar(tmp_path / "s.tar", [("a.png", PICTURE)])
    parquet(tmp_path / "p.parquet", {"image": [PICTURE]})
    assert told(read_all(f"{web}/s.tar")) == [("s.tar#a", None)]
    assert told(read_all(f"{web}/p.parquet")) == [("p.parquet#0", None)]
    with pytest.raises(BadInput, match="there is no"):
        list_files(f"{web}/none.tar", "/nowhere")


def test_blocks_are_small_tables_of_one_schema(tmp_path: Path) -> None:
    tar(tmp_path / "s.tar", [(f"{n}.png", PICTURE) for n in range(70)])
    [piece] = pieces(str(tmp_path), list_files(str(tmp_path), "/nowhere"), Known(), 1, 3)
    assert isinstance(piece, Piece)
    blocks = list(read(pa.table({"item": [pickle.dumps(piece)]}), RULES))
    assert all(block.schema == READ for block in blocks)
    assert max(block.num_rows for block in blocks) <= 32
    assert sum(block.num_rows for block in blocks) == 70 + 24 + 1
