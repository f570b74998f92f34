"""A piece of work -> its pictures, as encoded as they lie there. Runs in tasks of Ray: no torch, nothing is decoded.

What cannot be read becomes a row with an error: a picture, a row, or all that is left of a file.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from vision_server.bulk import parquets, tars
from vision_server.bulk.places import first_line, open_place
from vision_server.bulk.samples import BAD_FILE, DUPLICATE, UNREADABLE, Rules, Sample, too_large
from vision_server.bulk.sources import File, Piece, Wanted
from vision_server.bulk.tables import Read, read_table
from vision_server.errors import BadInput

_MOST_ROWS, _MOST_BYTES = 32, 32 << 20  # in a block: what an engine's batch is made of
_FILES_AT_ONCE = 8  # a store far away takes its time for each


def read(items: pa.Table, rules: Rules) -> Iterator[pa.Table]:
    """What Ray Data calls, with pickled pieces in the column `item`."""
    for packed in items["item"].to_pylist():
        yield from blocks(rows_of(pickle.loads(packed), rules))


def blocks(rows: Iterator[Read]) -> Iterator[pa.Table]:
    block: list[Read] = []
    held = 0
    for row in rows:
        block.append(row)
        held += len(row.data or b"")
        if len(block) >= _MOST_ROWS or held >= _MOST_BYTES:
            yield read_table(block)
            block, held = [], 0
    if block:
        yield read_table(block)


def rows_of(piece: Piece, rules: Rules) -> Iterator[Read]:
    if piece.file is None:
        yield from _pictures(piece, rules)
    else:
        yield from _File(piece, piece.file, rules).rows()


def _pictures(piece: Piece, rules: Rules) -> Iterator[Read]:
    system, _ = open_place(piece.url, "SOURCE")

    def fetch(wanted: Wanted) -> Read:
        file = wanted.file
        row = Read(file.name, file.name, piece.part, prompts=list(wanted.prompts))
        if file.size is not None and file.size > rules.max_bytes:
            row.error, row.message = too_large(file.size, rules.max_bytes)
            return row
        try:
            row.data = system.cat_file(file.path)
        except Exception as error:
            row.error, row.message = UNREADABLE, f"The file cannot be read ({type(error).__name__})."
        return row

    with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
        for first in range(0, len(piece.pictures), _FILES_AT_ONCE):
            some = piece.pictures[first : first + _FILES_AT_ONCE]
            for place, row in enumerate(threads.map(fetch, some), first):
                row.place = place
                yield row
    yield _end(piece.part, sum(len(one.prompts) for one in piece.pictures))


class _File:
    """The samples of one tar or parquet file, cut into parts, less what is answered."""

    def __init__(self, piece: Piece, file: File, rules: Rules) -> None:
        self._piece, self._file, self._rules = piece, file, rules
        self._done = dict(piece.done)
        self._seen: dict[str, int] = {}

    def rows(self) -> Iterator[Read]:
        size, every = self._rules.part_pictures, range(self._rules.prompts)
        count = in_part = 0
        part = ""
        for sample in self._samples():
            if sample.error == BAD_FILE:
                yield self._broken(sample.message)
                yield _end(f"{self._piece.part}-file", 1)
                break
            if count % size == 0:
                if in_part:
                    yield _end(part, in_part)
                part, in_part = f"{self._piece.part}-{count // size:05d}", 0
            key = self._once(sample)
            name = f"{self._file.name}#{key}"
            left = [number for number in every if number not in self._done.get(name, ())]
            if left:
                yield Read(name, key, part, count % size, left, sample.data, sample.error, sample.message)
                in_part += len(left)
            count += 1
        if in_part:
            yield _end(part, in_part)
        yield Read(self._file.name, self._file.name, "", of=count)

    def _samples(self) -> Iterator[Sample]:
        """Raises nothing: a last sample with BAD_FILE says how the file ended."""
        read = tars.samples if self._file.kind == "tar" else parquets.samples
        try:
            system, _ = open_place(self._piece.url, "SOURCE")
            with system.open(self._file.path, "rb") as file:
                yield from read(file, self._rules)
        except BadInput as error:
            yield Sample("", error=BAD_FILE, message=str(error))
        except Exception as error:
            yield Sample(
                "", error=BAD_FILE, message=f"The file ends here: {type(error).__name__}: {first_line(error)}."
            )

    def _once(self, sample: Sample) -> str:
        """Its key, and an error where another sample had it before."""
        times = self._seen[sample.key] = self._seen.get(sample.key, 0) + 1
        if times == 1:
            return sample.key
        sample.data, sample.error = None, DUPLICATE
        sample.message = "Another picture of this file has the same key, and was asked."
        return f"{sample.key} ({times})"

    def _broken(self, message: str | None) -> Read:
        return Read(self._file.name, self._file.name, f"{self._piece.part}-file", error=BAD_FILE, message=message)


def _end(part: str, rows: int) -> Read:
    return Read("", "", part, of=rows)
