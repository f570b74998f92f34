"""A model in an actor: loaded as the settings say, asked through the same stepper as in the daemon's worker.

So as many requests run at once as memory has room for, an out-of-memory halves them, and pictures are decoded beside.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from vision_server.errors import LoadFailed, VisionError
from vision_server.pull import folder_of
from vision_server.served import alone
from vision_server.settings import Settings
from vision_server.worker.equipping import equip
from vision_server.worker.protocol import Done, Failed, Frame, Run
from vision_server.worker.stepper import Inbox, Stepper

_AHEAD = 4  # pictures decoded beyond those that run


class Engine:
    """`steppers` is given the inbox and what takes its answers."""

    def __init__(self, stepper: Callable[[Inbox, Callable[[Frame], None]], Stepper], decoders: int) -> None:
        self._inbox: Inbox = queue.SimpleQueue()
        self._answers: dict[int, Done | Failed] = {}
        self._stepper = stepper(self._inbox, self._take)
        self._decoders = ThreadPoolExecutor(decoders, "decoder")

    def ask(self, runs: Sequence[Run]) -> dict[int, Done | Failed]:
        """Outcomes by the runs' ids, which are unique among them."""
        self._answers = {}
        begun = 0
        while len(self._answers) < len(runs):
            while begun < len(runs) and begun - len(self._answers) < self._stepper.ready.slots + _AHEAD:
                self._inbox.put(runs[begun])
                self._decoders.submit(self._prepare, runs[begun])
                begun += 1
            self._stepper.turn()
        return self._answers

    def _prepare(self, run: Run) -> None:
        self._inbox.put(self._stepper.prepare(run))

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, Done | Failed):
            self._answers[frame.id] = frame


@dataclass(frozen=True)
class Loading:
    """Makes an engine on the machine where it is called. `device` and `threads` are the actor's share of it; `several`
    prompts a picture are worth remembering what was seen."""

    settings: Settings
    device: str
    threads: int | None
    decoders: int
    several: bool

    def __call__(self) -> Engine:
        import torch

        from vision_server.engine import Florence

        chosen = self.settings
        model = alone(chosen.model, chosen)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        cache_bytes = int(chosen.feature_cache_mb * (1 << 20)) if self.several else 0
        try:
            florence = Florence.load(
                folder_of(model.checkpoint, chosen),
                self.device,
                model.dtype,
                adapter=model.adapter,
                feature_cache_bytes=cache_bytes,
            )
        except VisionError:
            raise
        except Exception as error:
            raise LoadFailed(f"The model could not be loaded ({type(error).__name__}).") from error
        return Engine(
            lambda inbox, say: equip(
                florence,
                model.name,
                inbox,
                say,
                max_batch=None if chosen.max_batch == "auto" else chosen.max_batch,
                max_pixels=int(chosen.max_pixels_m * 1e6),
                feature_cache_bytes=cache_bytes,
            ),
            self.decoders,
        )
