"""A LoRA adapter as PEFT saves it, merged into the weights while they are loaded. Trains nothing, keeps nothing apart.

Hu et al. 2021, "LoRA": a layer's weights W become W + scale * B A, in float32. `scale` is alpha / r, or alpha / sqrt(r)
with rank-stabilised LoRA. Modules may have the names of the original or of the native layout, whichever the checkpoint
has. What is more than LoRA matrices (whole modules, biases, embeddings, DoRA) is refused, never left out in silence.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vision_server.errors import CheckpointError

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
# Options that would change what the matrices mean, and the values that leave them alone.
_PLAIN: dict[str, tuple[object, ...]] = {
    "modules_to_save": (None, []),
    "bias": (None, "none"),
    "use_dora": (None, False),
    "lora_bias": (None, False),
    "use_qalora": (None, False),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
}


@dataclass(frozen=True)
class _Pair:
    """A (r, in) and B (out, r); convolutions have their kernel's sides behind."""

    a: Tensor
    b: Tensor
    scale: float


class Adapter:
    """The matrices by the key of the weights that they change."""

    def __init__(self, pairs: dict[str, _Pair]) -> None:
        self._pairs = pairs

    @classmethod
    def read(cls, directory: Path) -> Adapter:
        """Raises CheckpointError, naming file and key, for what is missing, damaged or no LoRA."""
        config = _read_config(directory / CONFIG_FILE)
        sides = _read_matrices(directory / WEIGHTS_FILE)
        modules = {module for module, _ in sides}
        return cls({f"{module}.weight": _pair(module, sides, config) for module in sorted(modules)})

    def check(self, known: Collection[str]) -> None:
        """Raises CheckpointError when one of the modules is not among the `known` keys."""
        for key in self._pairs:
            if key not in known:
                module = key.removesuffix(".weight")
                raise CheckpointError(f"{WEIGHTS_FILE} changes a module that Florence-2 does not have: {module}.")

    def merge(self, keys: Iterable[str], weights: Tensor) -> Tensor:
        """`weights`, which have the names `keys`, with their matrices merged in float32; the same object if none."""
        for key in keys:
            if pair := self._pairs.get(key):
                a, b = pair.a.float().flatten(1), pair.b.float().flatten(1)
                if b.shape[0] != weights.shape[0] or a.shape[1] != math.prod(weights.shape[1:]):
                    raise CheckpointError(
                        f"{WEIGHTS_FILE}: the matrices of {key.removesuffix('.weight')} are for weights of "
                        f"{b.shape[0]} x {a.shape[1]}, but the checkpoint's have the shape {list(weights.shape)}."
                    )
                delta = (b @ a).mul_(pair.scale).view(weights.shape)
                return weights.float().add(delta.to(weights.device))
        return weights


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"The adapter has no {CONFIG_FILE}.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"The adapter's {CONFIG_FILE} cannot be read as JSON.") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise CheckpointError(f"The adapter's {CONFIG_FILE} does not describe LoRA (peft_type is not LORA).")
    for name, plain in _PLAIN.items():
        if config.get(name) not in plain:
            raise CheckpointError(
                f"The adapter's {CONFIG_FILE} uses {name}, which cannot be merged here: merge it with peft, "
                "and name the folder with the merged checkpoint as model."
            )
    return config


def _read_matrices(path: Path) -> dict[tuple[str, str], Tensor]:
    """(module, A or B) -> matrix"""
    try:
        state = load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"The adapter has no {WEIGHTS_FILE}.") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"The adapter's {WEIGHTS_FILE} is truncated or not a safetensors file.") from error
    sides: dict[tuple[str, str], Tensor] = {}
    for key, tensor in state.items():
        match = _KEY.fullmatch(key)
        if match is None or not tensor.is_floating_point() or tensor.dim() < 2:
            raise CheckpointError(f"{WEIGHTS_FILE} has a key that is no matrix of LoRA: {key}.")
        sides[match[1], match[2]] = tensor
    if not sides:
        raise CheckpointError(f"The adapter's {WEIGHTS_FILE} is empty.")
    return sides


def _pair(module: str, sides: dict[tuple[str, str], Tensor], config: dict[str, Any]) -> _Pair:
    for side in "AB":
        if (module, side) not in sides:
            raise CheckpointError(f"{WEIGHTS_FILE} lacks the key base_model.model.{module}.lora_{side}.weight.")
    a, b = sides[module, "A"], sides[module, "B"]
    rank = _of_module(module, config, "r", "rank_pattern")
    alpha = _of_module(module, config, "lora_alpha", "alpha_pattern")
    if rank != a.shape[0] or rank != b.flatten(1).shape[1]:
        raise CheckpointError(
            f"{WEIGHTS_FILE}: the matrices of {module} have the shapes {list(a.shape)} and {list(b.shape)}, "
            f"but {CONFIG_FILE} gives them the rank {rank:g}."
        )
    return _Pair(a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _of_module(module: str, config: dict[str, Any], name: str, pattern_name: str) -> float:
    """The value for `module`: of the first pattern that matches its name's end, as in PEFT, else the common one."""
    value = config.get(name)
    try:
        for pattern, own in (config.get(pattern_name) or {}).items():
            if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
                value = own
                break
        if isinstance(value, bool) or not isinstance(value, int | float) or not (value > 0 or name == "lora_alpha"):
            raise TypeError
    except (AttributeError, TypeError, re.error) as error:
        raise CheckpointError(f"The adapter's {CONFIG_FILE}: {name} or {pattern_name} cannot be read.") from error
    return float(value)
