"""What `vision-server models` prints: the checkpoints with a name, those the settings add, and what is on disk.

Nothing is fetched and nobody is asked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import hub, settings
from .catalog import CATALOG, Checkpoint
from .errors import BadSetting, VisionError
from .footprint import footprint
from .served import named, source
from .settings import Settings

_HEADINGS = ("name", "repository", "family", "size", "on disk")


@dataclass(frozen=True)
class Listed:
    """One line. `size_bytes` is roughly what a download takes; `on_disk` is complete, partial, absent or unreadable."""

    name: str
    served: bool
    repository: str | None
    revision: str
    family: str
    prompts: tuple[str, ...] | None
    size_bytes: int | None
    on_disk: str
    on_disk_bytes: int
    where: str | None


def main(as_json: bool, flags: Mapping[str, Any], config: Path | None) -> int:
    """Print the list. Raises BadSetting."""
    chosen = settings.load(flags, config).settings
    lines = [_listed(checkpoint, chosen) for checkpoint in _all(chosen)]
    if as_json:
        sys.stdout.write(json.dumps([asdict(line) for line in lines], indent=1, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(_table(lines))
    return 0


def _all(chosen: Settings) -> list[Checkpoint]:
    """What the settings serve and have no row for comes after the rows; a name that is wrong is told on the side."""
    rows = {row.name.lower(): row for row in CATALOG}
    for name in _served_names(chosen):
        try:
            checkpoint = named(name, chosen)
        except BadSetting as error:
            sys.stderr.write(f"vision-server models: {error}\n")
        else:
            rows[checkpoint.name.lower()] = checkpoint
    return list(rows.values())


def _served_names(chosen: Settings) -> list[str]:
    return [entry.name for entry in chosen.models] or [chosen.model]


def _listed(checkpoint: Checkpoint, chosen: Settings) -> Listed:
    served = checkpoint.name.lower() in {name.lower() for name in _served_names(chosen)}
    wanted = source(checkpoint, chosen)
    if wanted is None:
        assert checkpoint.directory is not None
        size = footprint(checkpoint).size_bytes
        state, where = "complete", str(checkpoint.directory)
    else:
        try:
            found = hub.presence(wanted)
            state, size, where = found.state, found.size_bytes, "" if found.state == "absent" else str(found.folder)
        except VisionError:
            state, size, where = "unreadable", 0, ""
    return Listed(
        checkpoint.name,
        served,
        checkpoint.repository,
        checkpoint.revision,
        checkpoint.family,
        checkpoint.prompts,
        checkpoint.size_bytes,
        state,
        size,
        where or None,
    )


def _table(lines: list[Listed]) -> str:
    cells = [_HEADINGS, *(_cells(line) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    served = ", ".join(line.name for line in lines if line.served) or "nothing"
    return (
        "\n".join(rows) + f"\n\nThese settings serve {served}. Any owner/name on the hub and any folder will do, too.\n"
    )


def _cells(line: Listed) -> tuple[str, ...]:
    size = f"{line.size_bytes / 1e9:.1f} GB" if line.size_bytes else "-"
    there = line.on_disk if line.on_disk_bytes == 0 else f"{line.on_disk}, {line.on_disk_bytes / 1e6:,.1f} MB"
    where = f" in {line.where}" if line.where else ""
    return line.name, line.repository or "-", line.family or "-", size, there + where
