"""What a run has seen so far, step by step: as a table in a CSV file and as curves in a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLUMNS = ("step", "epoch", "loss", "rate", "gradient", "validation_loss", "exact", "similarity", "cider", "iou")
CSV_FILE, PLOT_FILE = "history.csv", "curves.png"
_SMOOTH = 0.95

Row = dict[str, float]


class History:
    """Rows by step: `loss` is the mean of a step's labels, `gradient` its norm; validations fill the later columns."""

    def __init__(self, rows: list[Row] | None = None) -> None:
        self.rows: list[Row] = rows or []

    def add(self, **values: float) -> None:
        self.rows.append(values)

    def validated(self, figures: Mapping[str, float]) -> None:
        """Figures of the step that was added last."""
        self.rows[-1] |= {name: value for name, value in figures.items() if name in COLUMNS}

    def validations(self) -> list[Row]:
        return [row for row in self.rows if "validation_loss" in row]

    @property
    def smoothed_loss(self) -> float:
        mean = 0.0
        for place, row in enumerate(self.rows[-100:]):
            mean = row["loss"] if place == 0 else _SMOOTH * mean + (1 - _SMOOTH) * row["loss"]
        return mean

    def write(self, folder: Path) -> None:
        """The table and the curves, each whole or not at all."""
        part = folder / f"{CSV_FILE}.part"
        with part.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            table.writerows(self.rows)
        part.replace(folder / CSV_FILE)
        if self.rows:
            part = folder / f"{PLOT_FILE}.part"
            self._draw(part)
            part.replace(folder / PLOT_FILE)

    def _draw(self, path: Path) -> None:
        # the drawing takes a second to import, and a run that is only checked draws nothing
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 6.5), layout="constrained")
        losses: Any
        shares: Any
        losses, shares = figure.subplots(2, 1, sharex=True)
        steps = [row["step"] for row in self.rows]
        losses.plot(steps, [row["loss"] for row in self.rows], color="#b8c4d6", linewidth=0.8, label="training")
        losses.plot(steps, self._smoothed(), color="#2a5caa", label="training, smoothed")
        seen = self.validations()
        if seen:
            losses.plot(*_column(seen, "validation_loss"), color="#c0392b", marker="o", label="validation")
        losses.set_ylabel("loss (nats per token)")
        losses.grid(alpha=0.3)
        losses.legend(frameon=False)
        for name, label in (
            ("exact", "exact match"),
            ("similarity", "similarity"),
            ("cider", "CIDEr / 10"),
            ("iou", "mean IoU"),
        ):
            steps, values = _column(seen, name)
            if steps:
                shares.plot(
                    steps, [value / 10 if name == "cider" else value for value in values], marker="o", label=label
                )
        rate = shares.twinx()
        rate.plot([row["step"] for row in self.rows], [row["rate"] for row in self.rows], color="#cccccc", zorder=0)
        rate.set_ylabel("learning rate")
        shares.set_ylim(0, 1.02)
        shares.set_ylabel("share of the validation")
        shares.set_xlabel("step")
        shares.grid(alpha=0.3)
        if shares.get_legend_handles_labels()[0]:
            shares.legend(frameon=False, loc="lower right")
        figure.savefig(path, dpi=110, format="png")

    def _smoothed(self) -> list[float]:
        means: list[float] = []
        for row in self.rows:
            means.append(row["loss"] if not means else _SMOOTH * means[-1] + (1 - _SMOOTH) * row["loss"])
        return means


def _column(rows: list[Row], name: str) -> tuple[list[float], list[float]]:
    held = [row for row in rows if name in row]
    return [row["step"] for row in held], [row[name] for row in held]
