"""What `vision-server pull NAME` does: fetch a checkpoint, show how far it is, print the folder it lies in.

The name, the token, the cache and the hub are the settings', so that the daemon finds what was fetched here.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import hub, settings
from .catalog import Checkpoint
from .errors import VisionError
from .served import named, source
from .settings import Settings

_SHOWN_EVERY_S = 0.2
_RATE_OVER_S = 5.0
_BAR_COLUMNS = 24


def main(name: str, revision: str | None, flags: Mapping[str, Any], config: Path | None) -> int:
    """The folder goes to standard output, so that a script can use it; all else to standard error. 1 on failure.

    Raises BadSetting for a name that is none.
    """
    chosen = settings.load(flags, config).settings
    checkpoint = named(name, chosen, revision)
    wanted = source(checkpoint, chosen)
    if wanted is None:
        sys.stderr.write(f"{checkpoint.name} needs no download.\n")
        sys.stdout.write(f"{checkpoint.directory}\n")
        return 0
    bar = Bar()
    try:
        with bar:
            folder = hub.fetch(wanted, bar.report, refresh=True)
    except (VisionError, KeyboardInterrupt) as error:
        why = str(error) or "stopped. What has come is kept: the next call goes on from there."
        sys.stderr.write(f"vision-server pull: {why}\n")
        return 1 if isinstance(error, VisionError) else 130
    sys.stderr.write(
        f"{wanted.repository}: {bar.total / 1e6:,.1f} MB are here.\n"
        if bar.total
        else f"{wanted.repository} is here.\n"
    )
    sys.stdout.write(f"{folder}\n")
    return 0


def folder_of(checkpoint: Checkpoint, settings: Settings) -> Path:
    """Where its files lie, fetched first where they are not here, with a bar. Raises VisionError."""
    if checkpoint.directory is not None:
        return checkpoint.directory
    wanted = source(checkpoint, settings)
    assert wanted is not None, "a checkpoint without a folder has a repository"
    with Bar() as bar:
        return hub.fetch(wanted, bar.report)


class Bar:
    """One line of progress in a terminal, written over itself and gone in the end; nothing elsewhere."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.total = 0
        self._now_s = now_s
        self._shown_s: float | None = None
        self._columns = 0
        self._seen: list[tuple[float, int]] = []  # of the last seconds, for the rate

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()

    def report(self, phase: str, done: int, total: int) -> None:
        self.total = total
        now_s = self._now_s()
        if sys.stderr.isatty() and (self._shown_s is None or now_s - self._shown_s >= _SHOWN_EVERY_S):
            self._shown_s = now_s
            self._seen = [(then_s, had) for then_s, had in self._seen if now_s - then_s <= _RATE_OVER_S and had <= done]
            self._seen.append((now_s, done))
            self._write(self._text(phase, done, total))

    def clear(self) -> None:
        if self._shown_s is not None:
            self._write("")
            sys.stderr.write("\r")

    def _write(self, text: str) -> None:
        """A terminal that is too narrow would break the line, and then it could not be written over."""
        text = text[: shutil.get_terminal_size().columns - 1]
        sys.stderr.write(f"\r{text:<{self._columns}}")
        sys.stderr.flush()
        self._columns = len(text)

    def _text(self, phase: str, done: int, total: int) -> str:
        if not total:
            return f"{phase}: asking the hub"
        filled = _BAR_COLUMNS * done // total
        bar = "#" * filled + "-" * (_BAR_COLUMNS - filled)
        return (
            f"{phase} [{bar}] {100 * done // total:3d} %  {done / 1e6:,.1f} of {total / 1e6:,.1f} MB{self._rate(total)}"
        )

    def _rate(self, total: int) -> str:
        (then_s, had), (now_s, has) = self._seen[0], self._seen[-1]
        if now_s <= then_s or has <= had:
            return ""
        per_s = (has - had) / (now_s - then_s)
        minutes, seconds = divmod(round((total - has) / per_s), 60)
        return f"  {per_s / 1e6:,.1f} MB/s  {minutes}:{seconds:02d} left"
