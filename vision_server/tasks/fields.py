"""PromptGen's text answers cut into their parts: caption, tags, analysis.

The parts of a mixed answer stand on lines of their own: the caption, then the tags, then (plus) the analysis. Tags are
separated by commas, their parentheses escaped as image generators want them. An analysis is `key: value` pairs between
commas; a value may hold commas too, and `;` where it differs from subject to subject; NA is unknown. That is how the
tools of PromptGen's author take answers apart. Any string is cut into something; nothing raises.
"""

from __future__ import annotations

import re
from typing import Any

from .answers import clean
from .registry import find

_ESCAPED = re.compile(r"\\([()])")
_KEY = re.compile(r"\s*([A-Za-z]+(?:_[A-Za-z]+)*):(.*)", re.DOTALL)


def parse_fields(token: str, text: str) -> dict[str, Any]:
    """The parts that the registry's row for `token` names, all of them present:

    - "caption": str, "" when the model left it out
    - "tags": list of str, without escapes
    - "analysis": {key: [value of the first subject, of the second, ...]}, None where the model wrote NA

    Empty for a prompt whose answer has no parts. `text` is the answer or the generated text it came from.
    """
    task = find(token)
    names = task.fields if task else ()
    parts = _lines(clean(text), len(names))
    return {name: _READ[name](part) for name, part in zip(names, parts, strict=True)}


def _lines(text: str, count: int) -> list[str]:
    """`count` parts: one a line, missing ones empty at the end; lines too many belong to the first, the caption."""
    if count < 2:
        return [text] * count
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    surplus = max(len(lines) - count, 0)
    parts = ["\n".join(lines[: surplus + 1]), *lines[surplus + 1 :]]
    return parts + [""] * (count - len(parts))


def _tags(text: str) -> list[str]:
    return [_ESCAPED.sub(r"\1", tag.strip()) for tag in re.split(r"[,\n]", text) if tag.strip()]


def _analysis(text: str) -> dict[str, list[str | None]]:
    subjects_of: dict[str, list[list[str]]] = {}  # key -> subject -> the pieces of its value between commas
    key, separator = "", ","
    for piece in re.split(r"([,;\n])", text):
        if piece in (",", ";", "\n"):
            separator = piece
        elif pair := _KEY.fullmatch(piece):
            key = pair[1].lower()
            subjects_of.setdefault(key, []).append([pair[2].strip()])
        elif key and separator == ";":
            subjects_of[key].append([piece.strip()])
        elif key and piece.strip():
            subjects_of[key][-1].append(piece.strip())
    return {key: [_known(pieces) for pieces in subjects] for key, subjects in subjects_of.items()}


def _known(pieces: list[str]) -> str | None:
    value = _ESCAPED.sub(r"\1", ", ".join(pieces))
    return None if value in ("", "NA", "N/A") else value


_READ: dict[str, Any] = {"caption": str, "tags": _tags, "analysis": _analysis}
