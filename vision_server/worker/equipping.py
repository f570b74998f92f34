"""A loaded engine -> the stepper around it: how many requests it takes at once, by the memory there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from .protocol import Frame, Ready
from .resources import free_memory_bytes
from .stepper import Inbox, Stepper, prepare

if TYPE_CHECKING:
    from ..engine import Florence

_MOST_GPU_SLOTS, _MOST_CPU_SLOTS = 64, 8


def equip(
    engine: Florence,
    model: str,
    inbox: Inbox,
    say: Callable[[Frame], None],
    *,
    max_batch: int | None,
    max_pixels: int,
    feature_cache_bytes: int,
) -> Stepper:
    """`max_batch` None asks the device's memory, of which `feature_cache_bytes` are not to be had."""
    import torch  # which is here already, if an engine is

    from ..engine import Options

    cuda = torch.cuda if engine.device.startswith("cuda") else None

    def memory() -> int:
        return int(cuda.memory_reserved(engine.device)) if cuda else 0

    def release() -> None:
        engine.forget_features()
        if cuda:
            cuda.empty_cache()

    free_bytes = cuda.mem_get_info(engine.device)[0] if cuda else free_memory_bytes()
    if free_bytes is not None:
        free_bytes -= feature_cache_bytes
    slots = max_batch or auto_slots(memory(), free_bytes, on_gpu=cuda is not None)
    wanted = engine.config.preprocess
    return Stepper(
        engine,
        inbox,
        Ready(model, engine.device, engine.dtype, slots, memory()),
        say,
        prepare=partial(prepare, max_pixels=max_pixels, target=(wanted.width, wanted.height)),
        to_options=lambda options: Options(**asdict(options)),
        memory=memory,
        release=release,
        banned=engine.config.banned_grounding_tokens,
    )


def auto_slots(model_bytes: int, free_bytes: int | None, *, on_gpu: bool) -> int:
    """How many requests to take at once, by a rough rule: 70 % of the free memory is shared out among them.

    On a GPU a request of three beams needs about half of what the model takes (its caches, and the activations of a
    picture in the vision tower), 256 MiB at least; should the rule be wrong, an out-of-memory halves it. On a CPU
    pictures are looked at one by one, and its caches need 128 MiB at most while answers are of usual length; beyond 8,
    where decoding gains little from more, and the first in line would wait for the pictures of all others.
    """
    most, request_bytes = _MOST_CPU_SLOTS, 128 << 20
    if on_gpu:
        most, request_bytes = _MOST_GPU_SLOTS, max(model_bytes // 2, 256 << 20)
    return most if free_bytes is None else max(1, min(most, int(free_bytes * 0.7) // request_bytes))
