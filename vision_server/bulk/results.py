"""DEST: files of answers, each written whole, and a description of the run; what is in them is not asked again.

An answer is a row, `picture`, `key`, `prompt` and `result`, or `error` and `message`; every picture has at most one for
each prompt. A file that gets more answers is written anew, with those that it had.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vision_server.bulk.places import first_line, open_place, write_whole
from vision_server.bulk.tables import WHOLE_FILE, Answered
from vision_server.errors import BadInput, BadSetting

RUN_FILE = "bulk.json"
COLUMNS = ("picture", "key", "prompt", "result", "error", "message")
_SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
_COMPLETE = "complete"  # files that were read to their end, and how many pictures they have
_WRITTEN_EVERY_S = 60.0  # what a crash of this machine may cost
Row = dict[str, Any]


class Results:
    """`about` is what answers depend on, by name; `form` and `part_pictures` None take what DEST has.

    Raises BadSetting where DEST holds what was asked otherwise, BadInput where it cannot be read or written.
    """

    def __init__(
        self,
        url: str,
        prompts: Sequence[str],
        about: Mapping[str, Any],
        form: str | None,
        part_pictures: int | None,
        retry_failed: bool,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._system, self._folder = open_place(url, "DEST")
        self._prompts, self._now_s = tuple(prompts), now_s
        self._done: dict[str, set[int]] = {}
        self._homes: dict[str, str] = {}
        self._by_file: dict[str, list[str]] = {}
        self._open: dict[str, list[Answered]] = {}
        self._wanted: dict[str, int] = {}
        self._come: dict[str, int] = {}
        self._written_s = now_s()
        self.answered = self.failed = self.parts = 0
        self.here_already = 0
        held = self._described() if self._part_files("") else {}  # without an answer it binds nobody
        self.form = form or held.get("format", "parquet")
        self.part_pictures: int = part_pictures or held.get("part_pictures", 128)
        self._complete: dict[str, int] = held.pop(_COMPLETE, {})
        self._about = {**about, "format": self.form, "part_pictures": self.part_pictures}
        for name, value in self._about.items() if held else ():
            if held.get(name) != value:
                raise BadSetting(
                    f"DEST holds answers of another run: its {name} is {_shown(held.get(name))} and not "
                    f"{_shown(value)} ({RUN_FILE} says so). Name another folder."
                )
        self._look(retry_failed)
        self._describe()

    # What is there ----------------------------------------------------------------------------------------------------

    def done(self, picture: str) -> frozenset[int]:
        """The numbers of the prompts that need no asking."""
        return frozenset(self._done.get(picture, ()))

    def home(self, picture: str) -> str | None:
        """The file that holds what is known of the picture."""
        return self._homes.get(picture)

    def done_of(self, file: str) -> dict[str, frozenset[int]]:
        """The same for the pictures of a tar or parquet file, by their names."""
        return {picture: self.done(picture) for picture in self._by_file.get(file, ())}

    def is_complete(self, file: str) -> bool:
        """Whether a tar or parquet file was read to its end, and all of its pictures need no asking."""
        needed = self._complete.get(file, -1) * len(self._prompts)
        return sum(len(self._done.get(picture, ())) for picture in self._by_file.get(file, ())) == needed

    def _described(self) -> dict[str, Any]:
        try:
            held = json.loads(self._system.cat_file(self._path(RUN_FILE)))
        except FileNotFoundError:
            return {}
        except NotADirectoryError:
            raise BadInput("DEST is a file, and must be a folder.") from None
        except ValueError:
            raise BadInput(f"DEST: {RUN_FILE} is damaged; name another folder.") from None
        except Exception as error:
            raise BadInput(f"DEST cannot be read ({type(error).__name__}: {first_line(error)}).") from None
        return dict(held)

    def _look(self, retry_failed: bool) -> None:
        numbers = {prompt: number for number, prompt in enumerate(self._prompts)} | {"": WHOLE_FILE}
        for path in self._part_files(self.form):
            name = path.rpartition("/")[2]
            part = name.removesuffix(f".{self.form}")
            for row in self._rows(path, name):
                number = numbers.get(row["prompt"])
                again = retry_failed and row.get("error") is not None
                if number == WHOLE_FILE:
                    if again:
                        self._complete.pop(row["picture"], None)
                        self._system.rm_file(path)  # it says nothing else, and is written again if it is still true
                    continue
                picture = row["picture"]
                self._homes[picture] = part
                if number is None or again:
                    continue
                if picture not in self._done and picture != row["key"]:
                    self._by_file.setdefault(picture[: -len(row["key"]) - 1], []).append(picture)
                self._done.setdefault(picture, set()).add(number)
                self.here_already += 1

    def _part_files(self, suffix: str) -> list[str]:
        try:
            listed = self._system.ls(self._folder, detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise BadInput(f"DEST cannot be read ({type(error).__name__}: {first_line(error)}).") from None
        return sorted(path for path in listed if path.rpartition("/")[2].startswith("part-") and path.endswith(suffix))

    def _rows(self, path: str, name: str) -> list[Row]:
        try:
            data = self._system.cat_file(path)
            if self.form == "parquet":
                rows: list[Row] = pq.read_table(io.BytesIO(data)).to_pylist()
            else:
                rows = [json.loads(line) for line in data.decode().split("\n")[:-1]]
            if all(isinstance(row["picture"], str) and isinstance(row["prompt"], str) and row["key"] for row in rows):
                return rows
        except Exception:
            pass
        raise BadInput(f"DEST: {name} is damaged: delete it, and its pictures are asked again.")

    # What comes -------------------------------------------------------------------------------------------------------

    def add(self, rows: Sequence[Answered]) -> None:
        """Take answers and ends of files; write what is whole. Raises BadInput where that cannot be written."""
        for row in rows:
            if row.of is not None and not row.part:
                self._complete[row.picture] = row.of
            elif row.of is not None:
                self._wanted[row.part] = row.of
            else:
                self._open.setdefault(row.part, []).append(row)
                self._come[row.part] = self._come.get(row.part, 0) + 1
                if row.error is None:
                    self.answered += 1
                else:
                    self.failed += 1
        for part in [part for part, count in self._wanted.items() if self._come.get(part, 0) >= count]:
            del self._wanted[part]
            self._come.pop(part, None)
            self._write(part)
        if self._now_s() - self._written_s > _WRITTEN_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write everything that is here. Raises BadInput."""
        for part in list(self._open):
            self._write(part)
        self._describe()
        self._written_s = self._now_s()

    def _write(self, part: str) -> None:
        rows = self._open.pop(part, [])
        if not rows:
            return
        name = f"{part}.{self.form}"
        path = self._path(name)
        rows.sort(key=lambda row: (row.place, row.prompt))
        fresh = {(row["picture"], row["prompt"]): row for row in map(self._final, rows)}
        held = self._rows(path, name) if self._system.exists(path) else []
        merged = [fresh.pop((row["picture"], row["prompt"]), row) for row in held]
        self._save(name, self._encoded([*merged, *fresh.values()]))
        self.parts += 1

    def _final(self, row: Answered) -> Row:
        prompt = "" if row.prompt == WHOLE_FILE else self._prompts[row.prompt]
        final: Row = {"picture": row.picture, "key": row.key, "prompt": prompt}
        if row.error is not None:
            return {**final, "error": row.error, "message": row.message}
        result = json.loads(row.result or "null")
        if self.form == "parquet" and not isinstance(result, str):
            result = json.dumps(result, ensure_ascii=False)
        return {**final, "result": result}

    def _encoded(self, rows: list[Row]) -> bytes:
        if self.form == "jsonl":
            return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
        out = io.BytesIO()
        columns = {name: [row.get(name) for row in rows] for name in COLUMNS}
        pq.write_table(pa.table(columns, schema=_SCHEMA), out)
        return out.getvalue()

    def _describe(self) -> None:
        described = {**self._about, "prompts": list(self._prompts), _COMPLETE: dict(sorted(self._complete.items()))}
        self._save(RUN_FILE, (json.dumps(described, indent=1, ensure_ascii=False) + "\n").encode())

    def _save(self, name: str, data: bytes) -> None:
        try:
            self._system.makedirs(self._folder, exist_ok=True)
            write_whole(self._system, self._path(name), data)
        except Exception as error:
            why = first_line(error) if str(error) else "it takes no writing"
            raise BadInput(f"DEST cannot be written ({type(error).__name__}: {why}).") from None

    def _path(self, name: str) -> str:
        return f"{self._folder.rstrip('/')}/{name}"


def _shown(value: object) -> str:
    return "not there" if value is None else json.dumps(value, ensure_ascii=False)
