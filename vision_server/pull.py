"""What `vision-server pull owner/name` does: fetch a checkpoint, show how far it is, print the folder it lies in."""

from __future__ import annotations

import sys
import time

from . import hub
from .errors import VisionError

_SHOWN_EVERY_S = 0.2


def main(repository: str, revision: str = "main") -> int:
    """The folder goes to standard output, so that a script can use it; all else to standard error. 1 on failure."""
    line = _Line()
    try:
        folder = hub.fetch(hub.Source(repository, revision), line.report, refresh=True)
    except VisionError as error:
        line.clear()
        sys.stderr.write(f"vision-server pull: {error}\n")
        return 1
    line.clear()
    sys.stderr.write(
        f"{repository}: {line.total / 1e6:,.1f} MB are here.\n" if line.total else f"{repository} is here.\n"
    )
    sys.stdout.write(f"{folder}\n")
    return 0


class _Line:
    """One line of progress in a terminal, written over itself; nothing elsewhere."""

    def __init__(self) -> None:
        self.total = 0
        self._shown_s = 0.0

    def report(self, phase: str, done: int, total: int) -> None:
        self.total = total
        now_s = time.monotonic()
        if sys.stderr.isatty() and now_s - self._shown_s >= _SHOWN_EVERY_S:
            self._shown_s = now_s
            text = f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB" if total else "asking the hub"
            sys.stderr.write(f"\r{phase}: {text:<40}")
            sys.stderr.flush()

    def clear(self) -> None:
        if self._shown_s:
            sys.stderr.write(f"\r{'':<60}\r")
