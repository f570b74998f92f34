"""Answers as JSON, JSON Lines or CSV, on standard output or in a file that a later run goes on with.

An answer is `{"image", "prompt", "answer"}`, and `text` or `region` where the prompt was given one: training reads it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import write_whole
from .server import ClientError
from .telling import put
from .terminal import Result

FORMATS = ("json", "jsonl", "csv")
_COLUMNS = ("image", "prompt", "answer", "text", "region")


class Records:
    """One list of answers. `has` says whether a file held one already; that needs no asking.

    JSON Lines and CSV are written as they come, an answer in one write; JSON is made whole by `close`.
    """

    def __init__(self, form: str, path: Path | None, overwrite: bool) -> None:
        """Raises ClientError for a file that is no such list, OSError."""
        self._form = form
        self._path = path
        self._records: list[dict[str, Any]] = []
        if path is not None and path.exists() and not overwrite:
            self._records = _read(form, path)
        self._known = {_question(record) for record in self._records}
        if path is None:
            put(_head(form))
        elif form != "json":  # what broke off, if anything, is cut away
            write_whole(path, "".join([_head(form), *(_line(form, one) for one in self._records)]).encode())
        else:  # a place that takes no file shows now, and not when the answers are there
            write_whole(path, path.read_bytes() if path.exists() else b"[]\n")

    def has(self, image: str, prompt: str, text: str, region: str) -> bool:
        """Whether the file that is gone on with has the answer to that."""
        return (image, prompt, text, region) in self._known

    def add(self, image: str, prompt: str, answer: Result, text: str, region: str) -> None:
        """Raises OSError, which names the place."""
        more = {name: value for name, value in (("text", text), ("region", region)) if value}
        record: dict[str, Any] = {"image": image, "prompt": prompt, "answer": answer, **more}
        self._records.append(record)
        if self._form == "json":
            return
        if self._path is None:
            put(_line(self._form, record))
            return
        try:
            with self._path.open("ab") as file:
                file.write(_line(self._form, record).encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    def close(self) -> None:
        """Raises OSError."""
        if self._form != "json":
            return
        whole = json.dumps(self._records, ensure_ascii=False, indent=1) + "\n"
        if self._path is None:
            put(whole)
        else:
            write_whole(self._path, _encodable(whole).encode())


def _question(record: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return record["image"], record["prompt"], record.get("text") or "", record.get("region") or ""


def _head(form: str) -> str:
    return _row(_COLUMNS) if form == "csv" else ""


def _line(form: str, record: dict[str, Any]) -> str:
    if form == "jsonl":
        return _encodable(json.dumps(record, ensure_ascii=False)) + "\n"
    answer = record["answer"] if isinstance(record["answer"], str) else json.dumps(record["answer"], ensure_ascii=False)
    return _row([{**record, "answer": answer}.get(name, "") for name in _COLUMNS])


def _row(cells: Any) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return _encodable(out.getvalue())


def _encodable(text: str) -> str:
    """A name that is not UTF-8 holds lone surrogates, which JSON can spell and a file cannot hold as they are."""
    return "".join(f"\\u{ord(char):04x}" if "\ud800" <= char <= "\udfff" else char for char in text)


def _is_json(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return isinstance(json.loads(text), dict)
    return False


def _read(form: str, path: Path) -> list[dict[str, Any]]:
    """The whole records of a file; a last one that broke off is left out."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        if form == "json":
            records = json.loads(text) if text.strip() else []
        elif form == "jsonl":
            *lines, last = text.split("\n")
            if _is_json(last):  # by a hand or a program that ends no line
                lines.append(last)
            records = [json.loads(line) for line in lines if line.strip()]
        else:
            rows = list(csv.reader(io.StringIO(text, newline=""), strict=False))
            if rows and tuple(rows[0]) != _COLUMNS:
                raise ValueError
            whole = rows[1:] if text.endswith("\n") and (not rows or len(rows[-1]) == len(_COLUMNS)) else rows[1:-1]
            records = [dict(zip(_COLUMNS, row, strict=True)) for row in whole]
        if not all(isinstance(one["image"], str) and isinstance(one["prompt"], str) and one["answer"] is not None
                   for one in records):  # fmt: skip
            raise ValueError
    except (ValueError, TypeError, KeyError):
        raise ClientError(f"{path} is no list of answers as {form}: name another file, or say --overwrite.") from None
    return records
