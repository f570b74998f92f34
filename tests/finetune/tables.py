"""The table that a run leaves, read back. Not a test."""

from __future__ import annotations

import csv
from pathlib import Path

from vision_server.finetune.history import CSV_FILE


def table_of(run: Path) -> list[dict[str, str]]:
    """Its rows, by column."""
    with (run / CSV_FILE).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
