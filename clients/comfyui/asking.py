"""Several questions at a time, with ComfyUI's progress bar, and ended where ComfyUI's user cancels.

ComfyUI's own modules are used where they are; without them nothing is shown and nothing cancels.
"""

from __future__ import annotations

import concurrent.futures
import importlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .server import Server

_LOOK_S = 0.1  # so often it is looked whether the user cancels
Answer = TypeVar("Answer")


def ask_all(server: Server, questions: Sequence[Callable[[], Answer]], parallel: int) -> list[Answer]:
    """The answers, in order; `parallel` are under way at a time, all of them to `server`.

    The first that fails ends the others, and so does ComfyUI's Cancel: both are raised here, at once.
    """
    progress = _Progress(len(questions))
    pool = concurrent.futures.ThreadPoolExecutor(max(1, parallel), thread_name_prefix="vision-server")
    try:
        asked = [pool.submit(question) for question in questions]
        left = set(asked)
        while left:
            done, left = concurrent.futures.wait(left, _LOOK_S, concurrent.futures.FIRST_COMPLETED)
            for answered in done:
                answered.result()
            progress.advance(len(done))
            raise_if_cancelled()
        return [answered.result() for answered in asked]
    finally:
        server.stop()  # with every answer here there is nothing left to end
        pool.shutdown(wait=False, cancel_futures=True)


def raise_if_cancelled() -> None:
    """Raises ComfyUI's InterruptProcessingException after its user pressed Cancel."""
    if (management := _of_comfyui("comfy.model_management")) is not None:
        management.throw_exception_if_processing_interrupted()


class _Progress:
    """The bar on the node that runs."""

    def __init__(self, total: int) -> None:
        utils = _of_comfyui("comfy.utils")
        self._bar = None if utils is None else utils.ProgressBar(total)

    def advance(self, count: int) -> None:
        if count and self._bar is not None:
            self._bar.update(count)


def _of_comfyui(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None
