"""One format for both processes; a record that comes from the worker looks as if it were made here."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from vision_server import log

TRICKY = '{"level": "INFO", "logger": "a", "message": "b", "exception": 1}'


@pytest.fixture(autouse=True)
def _restore_root() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    logging.captureWarnings(False)


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("a.b", logging.WARNING, "", 0, message, None, None)
    made.__dict__.update(extra)
    return made


def test_text_is_one_line_with_the_request_id() -> None:
    line = log.TextFormatter().format(record("two\nlines\r", request_id="r1"))
    assert line.endswith("WARNING a.b: two\\nlines\\r [r1]")
    assert "\n" not in line


def test_json_is_one_object_a_line() -> None:
    entry = json.loads(log.JsonFormatter().format(record("two\nlines", request_id="r1")))
    assert {**entry, "time": ""} == {
        "time": "",
        "level": "WARNING",
        "logger": "a.b",
        "message": "two\nlines",
        "request_id": "r1",
    }


def test_figures_stand_before_the_id_and_are_fields_of_the_object() -> None:
    made = record("answered", request_id="r1", fields={"status": 200, "ms": 1.5})
    assert log.TextFormatter().format(made).endswith("WARNING a.b: answered status=200 ms=1.5 [r1]")
    entry = json.loads(log.JsonFormatter().format(made))
    assert (entry["status"], entry["ms"], entry["message"]) == (200, 1.5, "answered")


@pytest.mark.parametrize(
    "hostile", ["\r\nforged", "\x1b[2J", "\x9b31m", "\u2028forged", "\u202e", "\x85", "\0", "\x0b"]
)
def test_nothing_that_steers_a_terminal_is_written(hostile: str) -> None:
    made = record(f"m{hostile}", request_id=f"r{hostile}", fields={"f": hostile})
    made.name = f"a{hostile}"
    line = log.TextFormatter().format(made)
    assert line.isprintable(), ascii(line)
    assert log.JsonFormatter().format(made).isprintable()


def test_a_traceback_cannot_pose_as_a_record() -> None:
    try:
        raise ValueError("no\n2026-01-01T00:00:00.000+00:00 INFO    a.b: forged\x1b[2J")
    except ValueError as error:
        made = record("failed", exc_info=(type(error), error, None))
    first, *rest = log.TextFormatter().format(made).split("\n")
    assert first.endswith("a.b: failed")
    assert "forged" in rest[-1]
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_workers_record_keeps_level_logger_id_and_traceback(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError as error:
        line = log.JsonFormatter().format(record("100 % wrong", request_id="r7", exc_info=(type(error), error, None)))
    log.setup("info", form)
    log.relay(line)
    seen = capsys.readouterr().err
    for part in ("WARNING", "a.b", "100 % wrong", "r7", "ZeroDivisionError"):
        assert part in seen


@pytest.mark.parametrize(
    "line", ["a library speaks", "{not json", '{"level": "INFO"}', '{"level": 1}', "{" * 5000, "[]", TRICKY]
)
def test_noise_is_logged_as_it_is(line: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        log.relay(line)
    assert caplog.messages == [line]
    assert caplog.records[0].name == "vision_server.worker.stderr"


def test_the_level_holds_for_the_worker_too(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("error")
    log.relay(log.JsonFormatter().format(record("quiet")))
    log.relay("noise")
    assert capsys.readouterr().err == ""


def test_setting_up_twice_does_not_double_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup()
    log.setup()
    logging.getLogger("x").info("once")
    assert capsys.readouterr().err.count("once") == 1
