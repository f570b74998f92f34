"""Logging for the daemon and its worker: one format, text or JSON, on standard error.

A record about one request has its `request_id`, and may have figures in `fields`, both handed in by `extra=`. What a
client sends cannot forge a line: whatever is no printable character is written as an escape.

The worker always writes JSON lines, `relay` turns them back into records here, and the daemon's own handler formats
them; so both look the same whatever format is set. What a native library writes goes through as it is. Rotation is the
service manager's business. Pictures and prompts are never logged.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

_TEXT, _JSON = "text", "json"
_noise = logging.getLogger("vision_server.worker.stderr")


def setup(level: str = "info", form: str = _TEXT) -> None:
    """Send every record of `level` and above to standard error, as "text" or "json"; replaces an earlier setup."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == _JSON else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)


class TextFormatter(logging.Formatter):
    """`time level logger: message name=value ... [request_id]`, and an indented traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        request_id = getattr(record, "request_id", None)
        tail = f" [{request_id}]" if request_id else ""
        line = f"{_time(record)} {record.levelname:<7} {record.name}: {record.getMessage()}{fields}{tail}"
        trace = _trace(self, record)
        return "\n    ".join(map(_printable, [line, *(trace.split("\n") if trace else [])]))


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, and where they apply request_id, figures and exception."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": getattr(record, "request_id", None),
            **_fields(record),
            "exception": _trace(self, record),
        }
        return json.dumps({key: value for key, value in entry.items() if value is not None})


def relay(line: str) -> None:
    """Log a line that the worker wrote to its standard error: its own record, or the noise of a library."""
    entry = _parse(line)
    if entry is None:
        _noise.info("%s", line)
        return
    logger = logging.getLogger(entry["logger"])
    level = logging.getLevelName(entry["level"])
    if isinstance(level, int) and logger.isEnabledFor(level):
        record = logger.makeRecord(logger.name, level, "", 0, "%s", (entry["message"],), None)
        record.request_id = entry.get("request_id")
        record.exc_text = entry.get("exception")
        logger.handle(record)


def _parse(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    known = isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("level", "logger", "message"))
    sound = known and all(isinstance(entry.get(key, ""), str) for key in ("request_id", "exception"))
    return entry if sound else None


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, "fields", {})
    return fields


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)
    return record.exc_text
