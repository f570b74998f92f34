"""Checkpoint files -> our tensors, and back. The one table of names stands here.

The network is built on the meta device, the file is memory-mapped, and each tensor is moved once, to its device and
dtype, and assigned: nothing is initialised only to be overwritten. A key that is missing, left over or of the wrong
shape is an error that names it. Nothing in a checkpoint is executed: safetensors holds tensors only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vision_server.engine.config import Config
from vision_server.engine.network import Network
from vision_server.errors import CheckpointError

Progress = Callable[[str, int, int], None]

WEIGHTS_FILE = "model.safetensors"

# Native checkpoint prefix -> ours.
PREFIXES = {
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "projector.",
    "model.language_model.": "text.",
    "lm_head.": "text.lm_head.",
}
# Our fused matrices and the rows they are made of, in order.
FUSED = {
    ".self_attn.qkv.": (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj."),
    ".encoder_attn.kv.": (".encoder_attn.k_proj.", ".encoder_attn.v_proj."),
}


def native_names(name: str) -> list[str]:
    """The native checkpoint's keys that make up our tensor `name`, to be stacked in order."""
    # the longest of our prefixes wins: the head is stored apart from the rest of the text model
    for prefix, ours in sorted(PREFIXES.items(), key=lambda pair: -len(pair[1])):
        if name.startswith(ours):
            name = prefix + name.removeprefix(ours)
            break
    for fused, parts in FUSED.items():
        if fused in name:
            return [name.replace(fused, part) for part in parts]
    return [name]


def load_network(
    directory: Path, config: Config, device: torch.device, dtype: torch.dtype, progress: Progress | None = None
) -> Network:
    """Build the network and fill it from `directory`; `progress` hears ("weights", bytes done, bytes in all).

    Raises CheckpointError for a missing, truncated or foreign file and for every key that does not fit.
    """
    with torch.device("meta"):
        network = Network(config)
    path = directory / WEIGHTS_FILE
    if not path.exists():
        raise CheckpointError(f"The checkpoint has no {WEIGHTS_FILE}.")
    try:
        with safe_open(path, framework="pt") as file:
            stored = set(file.keys())
            state = _read(network, stored, file.get_tensor, path.stat().st_size, device, dtype, progress)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"The checkpoint's {WEIGHTS_FILE} is truncated or not a safetensors file.") from error
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _read(
    network: Network,
    stored: set[str],
    get_tensor: Callable[[str], Tensor],
    bytes_total: int,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None,
) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    bytes_done = 0
    head, tied = "text.lm_head.weight", "lm_head.weight" not in stored
    for name, target in network.state_dict().items():
        if name == head and tied:
            continue
        keys = native_names(name)
        missing = [key for key in keys if key not in stored]
        if missing:
            raise CheckpointError(f"{WEIGHTS_FILE} lacks the key {missing[0]}.")
        parts = [get_tensor(key) for key in keys]
        shape = torch.Size([target.shape[0] // len(keys), *target.shape[1:]]) if target.dim() else target.shape
        for key, part in zip(keys, parts, strict=True):
            if part.shape != shape:
                raise CheckpointError(
                    f"{WEIGHTS_FILE}: {key} has the shape {list(part.shape)}, but config.json needs {list(shape)}."
                )
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        bytes_done += sum(part.nbytes for part in parts)
        stored.difference_update(keys)
        state[name] = tensor.to(device=device, dtype=dtype)
        if progress:
            progress("weights", bytes_done, bytes_total)
    if stored:
        raise CheckpointError(f"{WEIGHTS_FILE} has a key that Florence-2 does not: {min(stored)}.")
    if tied:
        state[head] = state["text.shared.weight"]
    return state


def native_state(network: Network) -> Iterator[tuple[str, Tensor]]:
    """The network's tensors under the native layout's names; a head that is the shared embedding is left out."""
    tied = network.text.lm_head.weight.data_ptr() == network.text.shared.weight.data_ptr()
    for name, tensor in network.state_dict().items():
        if name == "text.lm_head.weight" and tied:
            continue
        keys = native_names(name)
        yield from zip(keys, tensor.chunk(len(keys)), strict=True)


def save_network(network: Network, directory: Path, dtype: torch.dtype) -> None:
    """Write `model.safetensors` in the native layout, which transformers loads too."""
    state = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in native_state(network)}
    save_file(state, directory / WEIGHTS_FILE, metadata={"format": "pt"})
