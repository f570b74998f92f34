"""Answers in a terminal's lines and columns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_server.client import terminal

QUAD = [1.0, 2.0, 30.4, 2.0, 30.4, 9.6, 1.0, 9.6]


@pytest.mark.parametrize(
    ("result", "lines", "line"),
    [
        ("a red car", ["a red car"], "a red car"),
        ("", ["(empty)"], "(empty)"),
        (" \n", ["(empty)"], "(empty)"),
        ("two\nlines  and spaces", ["two", "lines  and spaces"], "two lines and spaces"),
        ("\x1b[2J", ["?[2J"], "?[2J"),
        (
            {"bboxes": [[0.4, 1.6, 20, 30.2], [1, 2, 3, 4]], "labels": ["car", "fish"]},
            ["car [0 2 20 30]", "fish [1 2 3 4]"],
            "car [0 2 20 30], fish [1 2 3 4]",
        ),
        ({"bboxes": [[1, 2, 3, 4]], "labels": [""]}, ["[1 2 3 4]"], "[1 2 3 4]"),
        ({"quad_boxes": [QUAD], "labels": ["A\nB"]}, ["A B [1 2 30 2 30 10 1 10]"], "A B [1 2 30 2 30 10 1 10]"),
        (
            {"polygons": [[QUAD, [50, 50, 60, 50, 60, 60]]], "labels": [""]},
            ["outline of 7 points in [1 2 60 60]"],
            "outline of 7 points in [1 2 60 60]",
        ),
        (
            {"bboxes": [[1, 2, 3, 4]], "bboxes_labels": ["a"], "polygons": [[QUAD]], "polygons_labels": ["b"]},
            ["a [1 2 3 4]", "b outline of 4 points in [1 2 30 10]"],
            "a [1 2 3 4], b outline of 4 points in [1 2 30 10]",
        ),
        ({"bboxes": [], "labels": []}, ["nothing"], "nothing"),
        ({"quad_boxes": [], "labels": []}, ["nothing"], "nothing"),
        ({"caption": "ein Käse", "tags": []}, ['{"caption": "ein Käse", "tags": []}'], None),
    ],
)
def test_an_answer_in_lines(result: str | dict[str, Any], lines: list[str], line: str | None) -> None:
    assert terminal.lines(result) == lines
    assert terminal.one_line(result) == (line or lines[0])


@given(st.text(max_size=80), st.integers(3, 60))
def test_a_cell_has_its_width(text: str, columns: int) -> None:
    cell = terminal.fit(text, columns)
    assert terminal.width(cell) == columns
    assert cell.isprintable()


def test_a_cell_is_cut_where_it_must() -> None:
    assert terminal.fit("captioning", 10) == "captioning"
    assert terminal.fit("captioning!", 10) == "caption..."
    assert terminal.fit("東京タワー", 8) == "東京... "
