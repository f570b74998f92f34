"""Answers and tables as a terminal shows them: one line or several, cut to columns, nothing that a terminal obeys."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from ..tasks import Shape, shapes

Result = str | Mapping[str, Any]


def lines(result: Result) -> list[str]:
    """An answer for a person: a text in its own lines, places one a line, with their label, in whole pixels."""
    if isinstance(result, str):
        told = result.strip().splitlines()
    elif found := shapes(result):
        told = [_line(shape) for shape in found]
    else:
        told = ["nothing"] if any(name in result for name in ("bboxes", "quad_boxes", "polygons")) else [_json(result)]
    return [printable(line) for line in told] or ["(empty)"]


def one_line(result: Result) -> str:
    """The same on one line, each white space one blank."""
    return " ".join((", " if shapes(result) else " ").join(lines(result)).split())


def _line(shape: Shape) -> str:
    """`label [x1 y1 x2 y2]`; four corners for a quad; for an outline its size and the box around it."""
    if shape.kind == "polygon":
        points = sum(len(ring) // 2 for ring in shape.rings)
        place = f"outline of {points} points in {_numbers(shape.bounds)}"
    else:
        place = _numbers(shape.rings[0])
    return f"{' '.join(shape.label.split())} {place}".lstrip()


def _numbers(values: Iterable[float]) -> str:
    return f"[{' '.join(f'{value:.0f}' for value in values)}]"


def _json(result: Result) -> str:
    return json.dumps(result, ensure_ascii=False)


def printable(text: str) -> str:
    """What cannot be printed becomes a question mark."""
    return "".join(char if char.isprintable() else "?" for char in text)


def fit(text: str, columns: int) -> str:
    """Cut or padded to a number of terminal columns, on one line."""
    text = printable(text)
    if width(text) > columns:
        text = text[:columns]
        while width(text) > columns - 3:
            text = text[:-1]
        text += "..."
    return text + " " * (columns - width(text))


def width(text: str) -> int:
    """In columns: East Asian characters take two, combining ones none."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def never_fail_to_print() -> None:
    """For this process: an old terminal, or a pipe, shows ? for what its encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
