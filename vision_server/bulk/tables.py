"""What goes from the readers to the engines and from them to the command: rows as tables of Arrow.

A row read is a picture and the prompts it is to be asked; or, with an error, one that cannot be; or, with `of`, the end
of a file of answers (`part`), which then has so many rows of this run; or the end of a tar or parquet file (`picture`
without `part`), which has so many pictures. Ends pass the engines as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

READ = pa.schema(
    [
        ("picture", pa.string()), ("key", pa.string()), ("part", pa.string()), ("place", pa.int64()),
        ("prompts", pa.list_(pa.int32())), ("data", pa.large_binary()), ("error", pa.string()),
        ("message", pa.string()), ("of", pa.int64()),
    ]
)  # fmt: skip
ANSWERED = pa.schema(
    [
        ("picture", pa.string()), ("key", pa.string()), ("part", pa.string()), ("place", pa.int64()),
        ("prompt", pa.int32()), ("result", pa.large_string()), ("error", pa.string()), ("message", pa.string()),
        ("of", pa.int64()),
    ]
)  # fmt: skip
WHOLE_FILE = -1  # in place of a prompt's number: the row is about a tar or parquet file


@dataclass
class Read:
    """One row of READ."""

    picture: str
    key: str
    part: str
    place: int = 0
    prompts: list[int] = field(default_factory=list)
    data: bytes | None = None
    error: str | None = None
    message: str | None = None
    of: int | None = None


@dataclass
class Answered:
    """One row of ANSWERED. `result` is JSON, `prompt` a number or WHOLE_FILE."""

    picture: str
    key: str
    part: str
    place: int
    prompt: int
    result: str | None = None
    error: str | None = None
    message: str | None = None
    of: int | None = None


def read_table(rows: list[Read]) -> pa.Table:
    return _table(rows, READ)


def answered_table(rows: list[Answered]) -> pa.Table:
    return _table(rows, ANSWERED)


def _table(rows: list[Any], schema: pa.Schema) -> pa.Table:
    return pa.table({name: [getattr(row, name) for row in rows] for name in schema.names}, schema=schema)


def read_rows(table: pa.Table) -> list[Read]:
    return [Read(**row) for row in table.to_pylist()]


def answered_rows(table: pa.Table) -> list[Answered]:
    return [Answered(**row) for row in table.to_pylist()]
