"""What tests of the caption command for many pictures share. Not a test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from tests.peer import Answer, good

Run = Callable[..., tuple[int, str, str]]


def said(prompt: str, picture: str | Path) -> str:
    """What the worker without a model answers."""
    return f"<{prompt}>||{Path(picture).stat().st_size}"


def texts(folder: Path) -> dict[str, str]:
    """What was written: path below the folder -> text."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (".txt", ".part", ".md"))
    return {str(path.relative_to(folder)): path.read_text() for path in found if path.name != "notes.txt"}


class Said(dict[str, Answer]):
    """Every call is answered by what `answer` makes of how many came before it."""

    def __init__(self, answer: Callable[[int], Answer]) -> None:
        self._answer = answer
        self._lock = threading.Lock()
        self.count = 0

    def __getitem__(self, path: str) -> Answer:
        with self._lock:
            self.count += 1
            count = self.count
        return self._answer(count)


class Stuck(Said):
    """The first call is answered "x"; from the second on, which sets `reached`, none is until `end` is set."""

    def __init__(self) -> None:
        super().__init__(self._wait)
        self.reached, self.end = threading.Event(), threading.Event()

    def _wait(self, count: int) -> Answer:
        if count > 1:
            self.reached.set()
            self.end.wait(120)
        return good({"result": "x"})


def refused(status: int, retry_after_s: int = 0) -> Answer:
    return status, {"Retry-After": str(retry_after_s)}, b'{"error": "Not now."}'
