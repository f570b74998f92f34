"""Which form a client wants, and the numbers in headers."""

from __future__ import annotations

import pytest

from vision_server.api.replies import retry_after_s, server_timing, wants_text
from vision_server.errors import QueueFull
from vision_server.jobs import Outcome


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        ("text/plain", True),
        ("TEXT/PLAIN; charset=utf-8", True),
        ("text/plain, */*", True),
        ("text/plain;q=0.9, application/json;q=0.5", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/plain, */*", False),  # what axios sends unasked
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("text/plain;q=0", False),
        ("text/plain;q=0.1, */*", False),
        ("text/plain;q=high", False),
        (",;,=;q", False),
    ],
)
def test_text_only_where_it_is_liked_best(accept: str, text: bool) -> None:
    assert wants_text(accept) is text


@pytest.mark.parametrize(("said", "header"), [(None, 1), (0.2, 1), (7.1, 8), (120, 120), (5000, 120)])
def test_retry_after_is_whole_and_bounded(said: float | None, header: int) -> None:
    assert retry_after_s(QueueFull("full", retry_after_s=said)) == header


def test_server_timing_always_has_its_five_parts() -> None:
    none = server_timing([])
    assert none == "queue;dur=0.0, load;dur=0.0, decode;dur=0.0, encode;dur=0.0, generate;dur=0.0"
    twice = [Outcome("", 1, 1, "stop", 0, 0, {"load": ms}) for ms in (1234.5, 0.06)]
    assert server_timing(twice) == none.replace("load;dur=0.0", "load;dur=1234.6")
