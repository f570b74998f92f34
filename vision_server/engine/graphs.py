"""Capture and replay of decoder steps as CUDA graphs. Knows nothing of what a step computes.

A graph repeats the very operations on the very memory that were captured, so there is one for each key, and a step must
do all its work in place, in buffers that live on. Whoever moves those buffers must `clear`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol

import torch

log = logging.getLogger(__name__)

MOST_GRAPHS = 48  # rows, spans and prompt lengths that alternate; each takes some megabytes of the device

Step = Callable[[], None]


class Recorder(Protocol):
    """How a device captures. A fake one, in tests, needs no device."""

    def warm(self, step: Step) -> None:
        """Run it where it will be captured, so that libraries allocate their workspaces beforehand."""

    def capture(self, step: Step) -> Step:
        """Note what it does, without doing it; what is returned does it. Raises RuntimeError."""

    def renew(self) -> None:
        """Wait until no graph runs; the ones to come share no memory with those before."""


class StepGraphs:
    """Runs steps. The first with a key runs as it is, the second is captured, and from then on it is replayed; so a key
    that never returns costs nothing. Without a recorder, and once a capture has failed, every step runs as it is."""

    def __init__(self, recorder: Recorder | None, most: int = MOST_GRAPHS) -> None:
        self._recorder, self._most = recorder, most
        self._kept: OrderedDict[Hashable, Step | None] = OrderedDict()  # None: has run once; the last used at the end

    def run(self, key: Hashable, step: Step) -> None:
        """Raises what `step` raises. Steps with equal keys must be the same."""
        if self._recorder is None:
            step()
            return
        if key not in self._kept:
            self._recorder.warm(step)
            self._kept[key] = None
        else:
            replay = self._kept[key] or self._captured(self._recorder, step)
            if replay is None:
                step()
                return
            self._kept[key] = replay
            replay()
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def _captured(self, recorder: Recorder, step: Step) -> Step | None:
        try:
            return recorder.capture(step)
        except RuntimeError as error:  # out of memory is one as well
            log.warning("decoder steps run without CUDA graphs, since one could not be captured: %s", error)
            self.clear()
            self._recorder = None
            return None

    def clear(self) -> None:
        """Drop all graphs."""
        if self._recorder is not None and self._kept:
            self._recorder.renew()
        self._kept.clear()


class CudaRecorder:
    """Captures on a stream of its own; its graphs share one pool of memory, since no two of them run at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm(self, step: Step) -> None:
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                step()
        finally:
            current.wait_stream(self._stream)

    def capture(self, step: Step) -> Step:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            try:
                # Only what this thread does counts: others may allocate meanwhile.
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    step()
            finally:
                torch.cuda.set_stream(current)  # a capture that fails leaves its own behind
        return graph.replay

    def renew(self) -> None:
        torch.cuda.synchronize(self._device)
        self._pool = torch.cuda.graph_pool_handle()


def graphs_for(device: torch.device) -> StepGraphs:
    return StepGraphs(CudaRecorder(device) if device.type == "cuda" else None)
