"""Logging for the daemon and its worker: one format, text or JSON, on standard error.

The worker always writes JSON lines, `relay` turns them back into records here, and the daemon's own handler formats
them; so both look the same whatever format is set. What a native library writes goes through as it is. Rotation is the
service manager's business. Pictures and prompts are never logged.
"""

from __future__ import annotations

import json
import logging
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
    """`time level logger: message [request_id]`; a message never spans lines, so it cannot pose as another record."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        request_id = getattr(record, "request_id", None)
        tail = f" [{request_id}]" if request_id else ""
        line = f"{_time(record)} {record.levelname:<7} {record.name}: {message}{tail}"
        trace = _trace(self, record)
        return f"{line}\n{trace}" if trace else line


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, and where they apply request_id and exception."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": getattr(record, "request_id", None),
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
    return entry if known else None


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)
    return record.exc_text
