"""The two files of a LoRA adapter as PEFT saves it: what its options say, and its tensors. Merges nothing.

Options that change what the tensors mean, in a way that `adapter` does not compute, are refused by name.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vision_server.engine.files import load_bin
from vision_server.errors import CheckpointError

CONFIG_FILE, WEIGHTS_FILE, BIN_FILE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_INSTEAD = "merge it with peft, and name the folder with the merged checkpoint as model"

# Options of peft.LoraConfig that would change what the tensors mean, and the values that leave them alone.
_PLAIN: dict[str, tuple[object, ...]] = {
    "use_qalora": (None, False),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "layer_replication": (None, []),
    "megatron_config": (None, {}),
    "use_bdlora": (None, False, {}),
    "arrow_config": (None, {}),
    "kasa_config": (None, {}),
    "monteclora_config": (None, {}),
    "velora_config": (None, {}),
}
# Ways to begin a training that take something out of the base's weights, which only PEFT can take out again.
_CHANGES_BASE = re.compile(r"(pissa|olora|corda|lora_ga|loftq).*", re.IGNORECASE)


def read_options(directory: Path) -> dict[str, Any]:
    """What `adapter_config.json` says. Raises CheckpointError where that is no LoRA, or more than can be merged."""
    try:
        options = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"The adapter has no {CONFIG_FILE}.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"The adapter's {CONFIG_FILE} cannot be read as JSON.") from error
    if not isinstance(options, dict) or options.get("peft_type") != "LORA":
        raise CheckpointError(f"The adapter's {CONFIG_FILE} does not describe LoRA (peft_type is not LORA).")
    refused = [name for name, plain in _PLAIN.items() if options.get(name) not in plain]
    if _CHANGES_BASE.fullmatch(str(options.get("init_lora_weights"))):
        refused.append(f"init_lora_weights {str(options['init_lora_weights'])[:40]}")
    if refused:
        raise CheckpointError(
            f"The adapter's {CONFIG_FILE} uses {', '.join(refused)}, which cannot be merged here: {_INSTEAD}."
        )
    return options


def read_tensors(directory: Path) -> tuple[str, dict[str, Tensor]]:
    """The name of the file that was read, and its tensors by key. Raises CheckpointError, naming file or key."""
    name = BIN_FILE if (directory / BIN_FILE).is_file() and not (directory / WEIGHTS_FILE).exists() else WEIGHTS_FILE
    try:
        state = load_bin(directory / BIN_FILE, mmap=False) if name == BIN_FILE else load_file(directory / name)
    except FileNotFoundError as error:
        raise CheckpointError(f"The adapter has no {WEIGHTS_FILE}.") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"The adapter's {name} is truncated or not a safetensors file.") from error
    if not state:
        raise CheckpointError(f"The adapter's {name} is empty.")
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{name}: {key} is {tensor.dtype}, not a floating-point tensor.")
    return name, state


def scale_of(module: str, options: dict[str, Any]) -> tuple[float, float]:
    """Rank and scale of a module's matrices: alpha / rank, or alpha / sqrt(rank) with rank-stabilised LoRA."""
    rank = _of_module(module, options, "r", "rank_pattern")
    alpha = _of_module(module, options, "lora_alpha", "alpha_pattern")
    return rank, alpha / (math.sqrt(rank) if options.get("use_rslora") else rank)


def _of_module(module: str, options: dict[str, Any], name: str, pattern_name: str) -> float:
    """The value for `module`: of the first pattern that matches its name's end, as in PEFT, else the common one."""
    value = options.get(name)
    try:
        for pattern, own in (options.get(pattern_name) or {}).items():
            if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
                value = own
                break
        if isinstance(value, bool) or not isinstance(value, int | float) or not (value > 0 or name == "lora_alpha"):
            raise TypeError
    except (AttributeError, TypeError, re.error) as error:
        raise CheckpointError(f"The adapter's {CONFIG_FILE}: {name} or {pattern_name} cannot be read.") from error
    return float(value)
