"""Files and folders in the forms that people have -> rows. Looks into no picture.

- JSON Lines, or a JSON list: `{"image", "prompt", "answer"}`, with `text` and `region` where a prompt takes them;
  ms-swift's `{"query", "response", "images"}` and `{"messages", "images"}`, with `objects` where places are meant;
- what this project's page and clients write: `{"picture", "answers": [{"prompt", "text_input", "region", "result"}]}`,
  or one line for each answer with `prompt` and `result`; as CSV, the same names at the heads of its columns;
- a folder of pictures, each with what is to be said of it beside it: `beach.txt`, `beach.OD.txt`, `beach.json`.

Pictures are named relative to the file that names them, or to the folder that the command runs in.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_server.dataset.pictures import SUFFIXES
from vision_server.dataset.rows import Row
from vision_server.dataset.swift import PLACEHOLDER, read_objects
from vision_server.errors import BadInput
from vision_server.tasks import find

_PICTURE = ("image", "picture", "file", "path")
_PROMPT = ("prompt", "task")
_TEXT = ("text", "text_input")
_ANSWER = ("answer", "result")
_PLACES = {"bboxes", "quad_boxes", "polygons"}
_BETWEEN_CELLS = ",;\t"  # where the comma is for decimals, spreadsheets put semicolons


@dataclass(frozen=True)
class Fault:
    """What is wrong with one row; `kind` is a few words by which faults are counted."""

    where: str
    kind: str
    message: str


UNREADABLE = "not a row"


def read(source: Path, prompt: str = "") -> Iterator[Row | Fault]:
    """The rows of a file or a folder. `prompt` is for those that have none."""
    if source.is_dir():
        yield from _folder(source, prompt)
        return
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        yield Fault(str(source), UNREADABLE, f"The file cannot be read as UTF-8 text ({type(error).__name__}).")
        return
    if source.suffix.lower() == ".json":
        yield from _document(source, text, prompt, source.parent, None)
        return
    if source.suffix.lower() == ".csv":
        yield from _table(source, text, prompt)
        return
    for number, line in enumerate(text.split("\n"), 1):  # not all that ends a line elsewhere: JSON may hold U+2028
        if line.strip():
            where = f"{source.name} line {number}"
            try:
                yield from _rows(json.loads(line), where, source.parent, prompt, None)
            except (ValueError, BadInput) as error:
                yield _fault(where, error)


def _table(source: Path, text: str, prompt: str) -> Iterator[Row | Fault]:
    """A row for each line below the heads. An empty cell is as if it were not there, but for the answer's."""
    between = max(_BETWEEN_CELLS, key=text.partition("\n")[0].count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=between)
    heads: list[str] | None = None
    while True:
        where = f"{source.name} line {lines.line_num + 1}"  # where it begins: a cell may hold several lines
        try:
            cells = next(lines)
            if heads is None:
                heads = [head.strip() for head in cells]
            elif cells:
                if len(cells) != len(heads):
                    raise BadInput(f"There are {len(cells)} cells, and {len(heads)} heads of columns.")
                value = {head: cell for head, cell in zip(heads, cells, strict=True) if cell or head in _ANSWER}
                named = {name: _said(value[name]) for name in _ANSWER if name in value}
                yield from _rows(value | named, where, source.parent, prompt, None)
        except StopIteration:
            return
        except (csv.Error, BadInput) as error:
            yield Fault(where, UNREADABLE, str(error) if isinstance(error, BadInput) else f"This is no CSV: {error}.")


def _folder(folder: Path, prompt: str) -> Iterator[Row | Fault]:
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    beside: dict[Path, list[Path]] = {}
    for path in sorted([*folder.rglob("*.txt"), *folder.rglob("*.json")]):
        beside.setdefault(path.parent, []).append(path)
    for picture in pictures:
        name = picture.relative_to(folder)
        found = False
        for path in beside.get(picture.parent, []):
            asked = _prompt_of(path, picture)
            if asked is None:
                continue
            found = True
            where = str(path.relative_to(folder))
            try:
                text = path.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                yield Fault(where, UNREADABLE, f"The file cannot be read as UTF-8 text ({type(error).__name__}).")
                continue
            if path.suffix == ".json":
                yield from _document(path, text, asked or prompt, picture.parent, picture)
            else:
                yield Row(where, picture, asked or prompt, _said(text))
        if not found:
            yield Fault(str(name), "no answer", "There is neither a .txt nor a .json file of this name beside it.")


def _prompt_of(path: Path, picture: Path) -> str | None:
    """The prompt in the name of a file beside `picture`, "" where it names none; None if it belongs to another.

    `beach.txt`, `beach.OD.txt`, `beach.jpg.txt`, `beach.jpg.OD.txt` belong to `beach.jpg`.
    """
    for stem in (picture.name, picture.stem):
        rest = path.stem.removeprefix(stem)
        if path.stem == stem:
            return ""
        if path.stem.startswith(stem) and rest.startswith(".") and (task := find(rest[1:])):
            return task.token
    return None


def _said(text: str) -> str | Mapping[str, Any]:
    """What a .txt or a cell holds: a text, or places as the daemon prints them, one line of JSON."""
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text)
        except ValueError:
            return text.strip()
        if isinstance(value, dict) and _PLACES & value.keys():
            return value
    return text.strip()


def _document(path: Path, text: str, prompt: str, folder: Path, picture: Path | None) -> Iterator[Row | Fault]:
    try:
        value = json.loads(text)
    except ValueError as error:
        yield _fault(path.name, error)
        return
    listed = value if isinstance(value, list) else [value]
    for number, one in enumerate(listed, 1):
        where = f"{path.name} entry {number}" if len(listed) > 1 else path.name
        try:
            yield from _rows(one, where, folder, prompt, picture)
        except BadInput as error:
            yield _fault(where, error)


def _fault(where: str, error: Exception) -> Fault:
    return Fault(where, UNREADABLE, str(error) if isinstance(error, BadInput) else "This is not JSON.")


def _rows(value: Any, where: str, folder: Path, prompt: str, picture: Path | None) -> Iterator[Row]:
    """The rows of one object; `picture` is whose it is where it names none. Raises BadInput."""
    if picture is not None and (isinstance(value, str) or (isinstance(value, dict) and _PLACES & value.keys())):
        value = {"result": value}  # the bare answer, as the page saves one
    if not isinstance(value, dict):
        raise BadInput("A row is a JSON object.")
    if "query" in value or "messages" in value:
        yield _swift(value, where, folder)
        return
    named = _first(value, _PICTURE)
    if named is None and picture is None:
        raise BadInput("No picture is named: give `image`.")
    path = picture if named is None or picture is not None else _path(named, folder)
    assert path is not None
    answers = value.get("answers")
    if isinstance(answers, dict):
        answers = [{"prompt": name, "result": result} for name, result in answers.items()]
    if answers is None:
        yield _one(value, where, path, prompt)
        return
    if not isinstance(answers, list) or not all(isinstance(one, dict) for one in answers):
        raise BadInput("answers is a list of objects with prompt and result.")
    for number, one in enumerate(answers, 1):
        yield _one(one, f"{where}, answer {number}", path, prompt)


def _one(value: Mapping[str, Any], where: str, path: Path, prompt: str) -> Row:
    said, text, region = _first(value, _ANSWER), _first(value, _TEXT) or "", value.get("region")
    asked = _first(value, _PROMPT) or prompt
    if said is None:
        raise BadInput("There is no answer.")
    if not isinstance(said, str | dict) or not isinstance(asked, str) or not isinstance(text, str):
        raise BadInput("prompt and text are texts, the answer a text or an object as the daemon answers it.")
    return Row(where, path, asked, said, text, region)


def _swift(value: Mapping[str, Any], where: str, folder: Path) -> Row:
    """Raises BadInput for several pictures, which Florence-2 cannot look at at once."""
    if "messages" in value:
        messages = value["messages"]
        if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
            raise BadInput("messages is a list of objects with role and content.")
        said = {one.get("role"): one.get("content") for one in messages}
        if sum(one.get("role") == "user" for one in messages) != 1:
            raise BadInput("messages has one question of the user and one answer: Florence-2 has no conversations.")
        query, response = said.get("user"), said.get("assistant")
    else:
        query, response = value.get("query"), value.get("response")
        if value.get("history"):
            raise BadInput("history is not empty, and Florence-2 has no conversations.")
    pictures = value.get("images") or []
    pictures = pictures if isinstance(pictures, list) else [pictures]
    if len(pictures) != 1:
        raise BadInput(f"images names {len(pictures)} pictures; Florence-2 looks at one.")
    named = pictures[0].get("path") if isinstance(pictures[0], dict) else pictures[0]
    if not isinstance(query, str) or not isinstance(response, str):
        raise BadInput("query and response are texts.")
    given = value.get("objects") or []
    objects = read_objects(given) if given or PLACEHOLDER.search(query + response) else None
    return Row(where, _path(named, folder), query.replace("<image>", "").strip(), response, objects=objects)


def _path(named: Any, folder: Path) -> Path:
    """Raises BadInput for what is no path. A name that is not there is looked for from where the command runs, as the
    caption command names pictures, and without its first folders, of which a page and a list that lies among the
    pictures know more than is needed."""
    if not isinstance(named, str) or not named or "\0" in named:
        raise BadInput("The picture is no path.")
    if named.startswith(("http://", "https://", "data:")):
        raise BadInput("The picture is an address; fetch it first, and name the file.")
    path = Path(named).expanduser()
    parts = path.relative_to(path.anchor).parts
    places = [folder / path, path, *(folder.joinpath(*parts[first:]) for first in range(1, len(parts)))]
    return next((place for place in places if place.exists()), places[0])


def _first(value: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)
