"""A LoRA adapter as PEFT saves it, merged into the weights while they are loaded. Trains nothing, keeps nothing apart.

Hu et al. 2021, "LoRA": a layer's weights W become W + scale * B A. Liu et al. 2024, "DoRA": each output's row of that
is then brought to the length that the adapter says. Tensors that were trained as a whole (biases, `modules_to_save`)
take the place of the checkpoint's. All of it is computed in float32, before weights are rounded or quantised.

Modules may have the names of the original or of the native layout, whichever the checkpoint has. What is more than that
is refused, never left out in silence: above all the word embedding, one matrix here for the encoder, the decoder and
often the head, of which PEFT would change one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.linalg import vector_norm

from vision_server.engine.adapter_files import read_options, read_tensors, scale_of
from vision_server.errors import CheckpointError

_PREFIX = "base_model.model."
_WORDS = re.compile(r"(?:.*\.)?(?:shared|embed_tokens)\.weight")
_ADDED = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<side>[AB])(?:\.default)?\.weight"
    r"|(?P<shift>lora_B)(?:\.default)?\.bias|(?P<magnitude>lora_magnitude_vector)(?:\.default)?(?:\.weight)?)"
)
_MOST_NAMED = 3


@dataclass
class _Change:
    """What becomes of one tensor of the checkpoint, in this order: `whole` takes its place; `a` (r, in) and `b` (out,
    r), convolutions with their kernel's sides behind, are multiplied and added; `shift` (out,) is added; each output's
    weights get the length `magnitude` (out,)."""

    whole: Tensor | None = None
    sides: dict[str, Tensor] = field(default_factory=dict)
    scale: float = 1.0
    shift: Tensor | None = None
    magnitude: Tensor | None = None


class Adapter:
    """The changes by the key of the tensor that they are for. Without any, it is an adapter that changes nothing."""

    def __init__(self, changes: dict[str, _Change] | None = None, file: str = "") -> None:
        self._changes, self._file = changes or {}, file

    @classmethod
    def read(cls, directory: Path) -> Adapter:
        """Raises CheckpointError, naming file and key, for what is missing, damaged or not to be merged."""
        options = read_options(directory)
        file, state = read_tensors(directory)
        changes: dict[str, _Change] = {}
        for key, tensor in state.items():
            _sort(key, tensor, changes, options, file)
        for key, change in changes.items():
            _check(key.removesuffix(".weight"), change, options, file)
        return cls(changes, file)

    def check(self, known: Collection[str]) -> None:
        """Raises CheckpointError, naming them, when there are changes of tensors that are not among the `known`."""
        strangers = [key for key in self._changes if key not in known]
        if strangers:
            named, more = ", ".join(strangers[:_MOST_NAMED]), len(strangers) - _MOST_NAMED
            raise CheckpointError(
                f"{self._file} changes what this Florence-2 does not have: {named}{f' and {more} more' * (more > 0)}."
            )

    def merge(self, keys: Iterable[str], stored: Tensor) -> Tensor:
        """`stored`, whose names are `keys`, changed, in float32; the same object where nothing is to be changed."""
        for key in keys:
            if change := self._changes.get(key):
                return self._changed(key, change, stored)
        return stored

    def _changed(self, key: str, change: _Change, stored: Tensor) -> Tensor:
        values = stored.float() if change.whole is None else change.whole.float()
        self._fit(key, list(values.shape) or [1], stored)
        outputs = (-1, *(1 for _ in values.shape[1:]))  # one number for each output, whatever is behind
        if change.sides:
            a, b = (change.sides[side].float().flatten(1) for side in "AB")
            self._fit(key, [b.shape[0], a.shape[1]], stored)
            values = values + (b @ a).mul_(change.scale).view(values.shape)
        if change.shift is not None:
            self._fit(key, [change.shift.numel()], stored)
            values = values + change.shift.float() * change.scale
        if change.magnitude is not None:
            self._fit(key, [change.magnitude.numel(), math.prod(stored.shape[1:])], stored)
            lengths = vector_norm(values.flatten(1), dim=1)
            values = values * (change.magnitude.float().flatten() / lengths).view(outputs)
        return values

    def _fit(self, key: str, shape: list[int], stored: Tensor) -> None:
        if shape[0] != stored.shape[0] or math.prod(shape) != stored.numel():
            raise CheckpointError(
                f"{self._file}: what it holds for {key.removesuffix('.weight')} is for weights of "
                f"{' x '.join(map(str, shape))}, but the checkpoint's have the shape {list(stored.shape)}."
            )


def _sort(key: str, tensor: Tensor, changes: dict[str, _Change], options: dict[str, Any], file: str) -> None:
    """Put a tensor of the adapter's file where it belongs."""
    if not key.startswith(_PREFIX):
        raise CheckpointError(f"{file} has a key that no adapter of PEFT has: {key}.")
    if "lora_embedding_" in key or _WORDS.fullmatch(key.replace(".base_layer.", ".")):
        raise CheckpointError(
            f"{file} changes an embedding, which cannot be merged here: {key.removeprefix(_PREFIX)}. "
            "Train the adapter without it."
        )
    found = _ADDED.fullmatch(key, len(_PREFIX))
    if found is None:
        if ".lora_" in key:
            raise CheckpointError(f"{file} has a key of a kind that cannot be merged here: {key}.")
        # what PEFT wraps keeps its name one level below
        changes.setdefault(key.removeprefix(_PREFIX).replace(".base_layer.", "."), _Change()).whole = tensor
        return
    module, side = found["module"], found["side"]
    change = changes.setdefault(f"{module}.{'bias' if found['shift'] else 'weight'}", _Change())
    change.scale = scale_of(module, options)[1]
    if side:
        change.sides[side] = tensor
    elif found["shift"]:
        change.shift = tensor
    else:
        change.magnitude = tensor


def _check(module: str, change: _Change, options: dict[str, Any], file: str) -> None:
    """Raises CheckpointError for matrices that are not a pair, or not of the rank that the options say."""
    if not change.sides and change.magnitude is None:
        return
    for side in "AB":
        if side not in change.sides:
            raise CheckpointError(f"{file} lacks the key {_PREFIX}{module}.lora_{side}.weight.")
    a, b = change.sides["A"], change.sides["B"]
    rank = scale_of(module, options)[0]
    if a.dim() < 2 or b.dim() < 2 or rank != a.shape[0] or rank != b.flatten(1).shape[1]:
        why = " (a convolution in groups cannot be merged)" if a.dim() == b.dim() == 4 and rank == a.shape[0] else ""
        raise CheckpointError(
            f"{file}: the matrices of {module} have the shapes {list(a.shape)} and {list(b.shape)}, "
            f"but the adapter's options give them the rank {rank:g}{why}."
        )
