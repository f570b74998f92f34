"""How far a run is: a bar with loss and time left in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

from vision_server.finetune.history import History

_LINE_EVERY_S = 30.0
_NAMES = {
    "validation_loss": "loss {:.4f}",
    "exact": "exact {:.1%}",
    "similarity": "similarity {:.1%}",
    "cider": "CIDEr {:.2f}",
    "iou": "IoU {:.3f}",
}


class Progress:
    """On standard error, by one process of all."""

    def __init__(self, steps: int, first: int, shows: bool) -> None:
        self._shows, self._steps, self._first = shows, steps, first
        self._bar: Any = tqdm(
            total=steps, initial=first, unit="step", dynamic_ncols=True, disable=not (shows and sys.stderr.isatty())
        )
        self._began_s = self._told_s = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()

    def step(self, step: int, history: History, rate: float) -> None:
        self._bar.set_postfix_str(f"loss {history.smoothed_loss:.4f}, rate {rate:.1e}", refresh=False)
        self._bar.update()
        now_s = time.monotonic()
        if self._shows and self._bar.disable and (now_s - self._told_s > _LINE_EVERY_S or step == self._steps):
            self._told_s = now_s
            left_s = (now_s - self._began_s) / (step - self._first) * (self._steps - step)
            left = tqdm.format_interval(left_s)
            self._write(f"step {step} of {self._steps}: loss {history.smoothed_loss:.4f}, {left} left")

    def tell(self, step: int, figures: dict[str, float], best: bool) -> None:
        """What a validation found."""
        if self._shows:
            shown = ", ".join(form.format(figures[name]) for name, form in _NAMES.items() if name in figures)
            self._write(f"step {step}, validation: {shown}{' (the best so far)' if best else ''}")

    def _write(self, line: str) -> None:
        if self._bar.disable:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        else:
            self._bar.write(line, file=sys.stderr)
