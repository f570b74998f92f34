"""Checkpoint -> network, and back.

The network is built on the meta device, the files are memory-mapped, and each value is copied once, to its device and
dtype and, where our tensor is several of the checkpoint's, to its place in it. A key that is missing, left over or of
the wrong shape is an error that names it and its file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vision_server.engine.adapter import Adapter
from vision_server.engine.config import Config
from vision_server.engine.files import SAFETENSORS, Tensors, open_tensors
from vision_server.engine.linear import Convert
from vision_server.engine.names import HEAD, SHARED, TRANSPOSED, Layout, embeddings, is_dropped, keys_of, layout_of
from vision_server.engine.network import Network
from vision_server.errors import CheckpointError

Progress = Callable[[str, int, int], None]
_MOST_SHARED = 8 << 20  # values: the allocator gives what is larger back by itself
_DRAWS = ("normal_", "uniform_", "kaiming_uniform_")  # as functions of torch.nn.init, and as methods


def load_network(
    directory: Path,
    config: Config,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None = None,
    adapter: Adapter | None = None,
    convert: Convert | None = None,
    network: Network | None = None,
) -> Network:
    """Fill an empty network from `directory`, an adapter merged in; `progress` hears ("weights", bytes done, bytes in
    all). With `convert`, what it makes of a linear layer takes that one's place as soon as it is filled. `network` is
    what `empty_network` has made of `config`, if it was made already.

    Raises CheckpointError for a missing, truncated or foreign file and for every key that does not fit.
    """
    adapter = adapter or Adapter()
    network = network or empty_network(config)
    room = _Room(network, device, dtype, convert is not None)
    with open_tensors(directory) as tensors, torch.no_grad():
        for name, tensor in _read(network, tensors, room, progress, adapter):
            _place(network, name, tensor, convert)
    return network.eval().requires_grad_(False)


def empty_network(config: Config) -> Network:
    """All layers and no values: on the meta device, where they take no memory."""
    with torch.device("meta"), _WithoutInitialValues():
        return Network(config)


class _Room:
    """Memory to read a tensor into: its own, or what all weights share that are about to be converted.

    Pieces of their size that came and went between what stays would leave holes, a tenth of the whole model.
    """

    def __init__(self, network: Network, device: torch.device, dtype: torch.dtype, converts: bool) -> None:
        self._network, self._device, self._dtype, self._converts = network, device, dtype, converts
        self._shared = torch.empty(0)

    def __call__(self, name: str, shape: torch.Size) -> Tensor:
        path, _, own_name = name.rpartition(".")
        stays = own_name != "weight" or not isinstance(self._network.get_submodule(path), nn.Linear)
        if stays or not self._converts or shape.numel() > _MOST_SHARED:
            return torch.empty(shape, dtype=self._dtype, device=self._device)
        if shape.numel() > self._shared.numel():
            self._shared = torch.empty(shape.numel(), dtype=self._dtype, device=self._device)
        return self._shared[: shape.numel()].view(shape)


def _place(network: Network, name: str, tensor: Tensor, convert: Convert | None) -> None:
    path, _, own_name = name.rpartition(".")
    module = network.get_submodule(path)
    is_parameter = isinstance(getattr(module, own_name), nn.Parameter)
    setattr(module, own_name, nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)
    if convert and isinstance(module, nn.Linear) and not any(p.is_meta for p in module.parameters()):
        network.set_submodule(path, convert(module))


class _WithoutInitialValues(TorchFunctionMode):
    """Layers built in this context do not draw the values that the file's will replace.

    On the meta device that draws nothing, but torch's way to it imports its compiler, which takes a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _read(
    network: Network,
    tensors: Tensors,
    room: _Room,
    progress: Progress | None,
    adapter: Adapter,
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the network by its name. One that is to be converted may be overwritten by the next but one."""
    layout = layout_of(tensors.file_of)
    every = {key for name in network.state_dict() for names in _names_of_parts(name) for key in names}
    adapter.check(every - TRANSPOSED)  # no module of the original, so nothing that PEFT can have changed
    left = set(tensors.file_of)
    is_tied = keys_of(HEAD, layout)[0] not in tensors.file_of  # a stored head is kept: fine-tunes have one that differs
    bytes_done = 0
    # The embedding and the head are by far the largest: they come first, while there is little beside them.
    for name, target in sorted(network.state_dict().items(), key=lambda item: item[0] not in (SHARED, HEAD)):
        keys = keys_of(name, layout)
        if name == SHARED:
            keys = (next((key for key in embeddings(layout) if key in tensors.file_of), keys[0]),)
        elif name == HEAD and is_tied:
            continue
        whole = room(name, target.shape)
        head = whole
        for key, part, names in zip(keys, whole.chunk(len(keys)), _names_of_parts(name), strict=True):
            source = _source(tensors, key, list(part.shape))
            part.copy_(adapter.merge(names, source))
            bytes_done += source.nbytes
            if name == SHARED and is_tied and (own := adapter.merge(_names_of_parts(HEAD)[0], source)) is not source:
                head = own.to(whole.device, whole.dtype)  # with an adapter of its own it is tied no longer
        yield name, whole
        if name == SHARED and is_tied:
            yield HEAD, head
        left.difference_update(keys)
        if progress:
            progress("weights", bytes_done, tensors.nbytes)
    superfluous = sorted(key for key in left if not is_dropped(key))
    if superfluous:
        key = superfluous[0]
        raise CheckpointError(f"{tensors.file_of[key]} has a key that Florence-2 does not: {key}.")


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


def is_tied(network: Network) -> bool:
    return network.text.lm_head.weight.data_ptr() == network.text.shared.weight.data_ptr()


def state_in(network: Network, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """The network's tensors under the layout's names; a head that is the shared embedding is left out."""
    for name, tensor in network.state_dict().items():
        if name == HEAD and is_tied(network):
            continue
        keys = keys_of(name, layout)
        for key, part in zip(keys, tensor.detach().chunk(len(keys)), strict=True):
            yield key, part.T if key in TRANSPOSED else part


def native_state(network: Network) -> Iterator[tuple[str, Tensor]]:
    """The same under the native layout's names, which are transformers'."""
    return state_in(network, Layout.NATIVE)


def save_network(network: Network, directory: Path, dtype: torch.dtype) -> None:
    """Write `model.safetensors` in the native layout, which transformers loads too."""
    state = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in native_state(network)}
    save_file(state, directory / SAFETENSORS, metadata={"format": "pt"})
