"""Checkpoint -> network, and back.

The network is built on the meta device, the files are memory-mapped, and each value is copied once, to its device and
dtype and, where our tensor is several of the checkpoint's, to its place in it. A key that is missing, left over or of
the wrong shape is an error that names it and its file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from vision_server.engine.adapter import Adapter
from vision_server.engine.config import Config
from vision_server.engine.files import SAFETENSORS, Tensors, open_tensors
from vision_server.engine.names import HEAD, SHARED, TRANSPOSED, Layout, embeddings, is_dropped, keys_of, layout_of
from vision_server.engine.network import Network
from vision_server.errors import CheckpointError

Progress = Callable[[str, int, int], None]


def load_network(
    directory: Path,
    config: Config,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None = None,
    adapter: Adapter | None = None,
) -> Network:
    """Build the network and fill it from `directory`, an adapter merged in; `progress` hears ("weights", bytes done,
    bytes in all).

    Raises CheckpointError for a missing, truncated or foreign file and for every key that does not fit.
    """
    adapter = adapter or Adapter({})
    with torch.device("meta"):
        network = Network(config)
    with open_tensors(directory) as tensors:
        state = _read(network, tensors, device, dtype, progress, adapter)
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _read(
    network: Network,
    tensors: Tensors,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None,
    adapter: Adapter,
) -> dict[str, Tensor]:
    layout = layout_of(tensors.file_of)
    adapter.check({key for name in network.state_dict() for names in _names_of_parts(name) for key in names})
    left = set(tensors.file_of)
    state: dict[str, Tensor] = {}
    bytes_done = 0
    # The embedding and the head are by far the largest: they come first, while there is little beside them.
    for name, target in sorted(network.state_dict().items(), key=lambda item: item[0] not in (SHARED, HEAD)):
        keys = keys_of(name, layout)
        if name == SHARED:
            keys = [next((key for key in embeddings(layout) if key in tensors.file_of), keys[0])]
        elif name == HEAD and keys[0] not in tensors.file_of:
            continue  # tied: the shared embedding serves, below
        whole = torch.empty(target.shape, dtype=dtype, device=device)
        for key, part, names in zip(keys, whole.chunk(len(keys)), _names_of_parts(name), strict=True):
            source = _source(tensors, key, list(part.shape))
            part.copy_(adapter.merge(names, source))
            bytes_done += source.nbytes
        state[name] = whole
        left.difference_update(keys)
        if progress:
            progress("weights", bytes_done, tensors.nbytes)
    superfluous = sorted(key for key in left if not is_dropped(key))
    if superfluous:
        key = superfluous[0]
        raise CheckpointError(f"{tensors.file_of[key]} has a key that Florence-2 does not: {key}.")
    # A stored head is kept as it is: fine-tunes store one that differs from the embedding.
    if HEAD not in state:
        state[HEAD] = adapter.merge(_names_of_parts(HEAD)[0], state[SHARED]).to(dtype)
    return state


def _names_of_parts(name: str) -> list[tuple[str, ...]]:
    """For each part of our tensor `name`, what the layouts call it."""
    return list(zip(*(keys_of(name, layout) for layout in Layout), strict=True))


def _source(tensors: Tensors, key: str, shape: list[int]) -> Tensor:
    """The stored tensor of `key`, turned as ours is; still in the mapped file."""
    if key not in tensors.file_of:
        raise CheckpointError(f"{tensors.listing} lacks the key {key}.")
    tensor = tensors.get(key)
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise CheckpointError(f"{tensors.file_of[key]}: {key} is {tensor.dtype}, not a plain floating-point tensor.")
    if key in TRANSPOSED:
        tensor = tensor.T
    if list(tensor.shape) != shape:
        raise CheckpointError(
            f"{tensors.file_of[key]}: {key} has the shape {list(tensor.shape)}, but config.json needs {shape}."
        )
    return tensor


def native_state(network: Network) -> Iterator[tuple[str, Tensor]]:
    """The network's tensors under the native layout's names; a head that is the shared embedding is left out."""
    tied = network.text.lm_head.weight.data_ptr() == network.text.shared.weight.data_ptr()
    for name, tensor in network.state_dict().items():
        if name == HEAD and tied:
            continue
        keys = keys_of(name, Layout.NATIVE)
        yield from zip(keys, tensor.chunk(len(keys)), strict=True)


def save_network(network: Network, directory: Path, dtype: torch.dtype) -> None:
    """Write `model.safetensors` in the native layout, which transformers loads too."""
    state = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in native_state(network)}
    save_file(state, directory / SAFETENSORS, metadata={"format": "pt"})
