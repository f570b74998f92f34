"""A parquet file -> samples, a row each. The picture is a column of bytes, or what Hugging Face's datasets write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from vision_server.bulk.places import first_line
from vision_server.bulk.samples import UNREADABLE, Rules, Sample, too_large
from vision_server.errors import BadImage, BadInput

_ROWS = 32


def samples(file: IO[bytes], rules: Rules) -> Iterator[Sample]:
    """Group of rows by group, of which only what is needed is held. Raises BadInput, and what pyarrow does."""
    parquet = pq.ParquetFile(file)
    columns = columns_of(parquet.schema_arrow, rules)
    first = 0
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        read = 0
        try:
            for batch in parquet.iter_batches(_ROWS, row_groups=[group], columns=columns):
                for row in batch.to_pylist():
                    yield _sample(row, columns[0], rules, first + read)
                    read += 1
        except Exception as error:  # of pyarrow's many: the other groups may be whole
            why = f"The row cannot be read ({type(error).__name__}: {first_line(error)})."
            for number in range(first + read, first + rows):
                yield Sample(str(number), error=UNREADABLE, message=why)
        first += rows


def columns_of(schema: pa.Schema, rules: Rules) -> list[str]:
    """Those that are read, the picture's first. Raises BadInput where `rules` names what is not there."""
    column = _picture_column(schema, rules.field)
    if rules.key is not None and rules.key not in schema.names:
        raise BadInput(f"There is no column {rules.key}; the columns are {', '.join(schema.names)}.")
    return [column] if rules.key in (None, column) else [column, str(rules.key)]


def check(file: IO[bytes], rules: Rules) -> None:
    """Raises BadInput where the columns are not what `rules` says, and what pyarrow does of a broken file."""
    columns_of(pq.read_schema(file), rules)


def _picture_column(schema: pa.Schema, field: str | None) -> str:
    fitting = [one.name for one in schema if _holds_bytes(one.type)]
    if field in fitting:
        return str(field)
    if field is None and len(fitting) == 1:
        return str(fitting[0])
    if field in schema.names:
        raise BadInput(f"The column {field} holds no bytes.")
    which = f"columns of bytes are {', '.join(fitting)}" if fitting else f"columns are {', '.join(schema.names)}"
    raise BadInput(f"Which column holds the picture? Say it with --field; its {which}.")


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(number).name == "bytes" for number in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _sample(row: dict[str, Any], column: str, rules: Rules, number: int) -> Sample:
    key = row.get(rules.key) if rules.key is not None else number
    value = row[column]
    data = value.get("bytes") if isinstance(value, dict) else value
    if key is None:
        return Sample(f"row {number}", error=BadInput.code, message=f"The row has no {rules.key}.")
    sample = Sample(str(key))
    if data is None:
        sample.error, sample.message = BadImage.code, "The row holds no picture."
    elif len(data) > rules.max_bytes:
        sample.error, sample.message = too_large(len(data), rules.max_bytes)
    else:
        sample.data = data
    return sample
