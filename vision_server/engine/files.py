"""A checkpoint directory's weight files as tensors by key, mapped into memory. Knows no names and runs nothing.

One safetensors file, several with an index, or PyTorch's own format, in this order. PyTorch's is a pickle: it is read
with `weights_only`, which refuses everything but tensors and plain containers. No other file is opened.

A mapped page counts as this process's memory from its first reading until the mapping goes. So a file is mapped anew
after every few percent of it, and a load holds the tensors it has made and little more.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vision_server.errors import CheckpointError

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
_LEAST_WINDOW_BYTES = 32 << 20  # mapping anew costs milliseconds, and some tens of them for PyTorch's format
_WINDOWS = 20  # a float32 file read to float16 then keeps the peak within 10 % of what it becomes

Getter = Callable[[str], Tensor]


@dataclass(frozen=True)
class Tensors:
    """`file_of` says which file holds a key, `listing` which file says what keys there are.

    `get` maps one tensor: copy it and let it go, for it keeps its mapping alive. `nbytes` is the size of the files.
    """

    file_of: dict[str, str]
    listing: str
    get: Getter
    nbytes: int


@contextmanager
def open_tensors(directory: Path) -> Iterator[Tensors]:
    """The tensors of `directory`, each to be got once. Raises CheckpointError, naming the file."""
    names, listing = _weight_files(directory)
    file_of: dict[str, str] = {}
    getters: dict[str, Getter] = {}
    for name in names:
        keys, getters[name] = _open_one(directory / name)
        file_of.update(dict.fromkeys(keys, name))

    def get(key: str) -> Tensor:
        try:
            return getters[file_of[key]](key)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file_of[key]}: the tensor {key} cannot be read.") from error

    try:
        yield Tensors(file_of, listing, get, sum((directory / name).stat().st_size for name in names))
    finally:
        getters.clear()


def _weight_files(directory: Path) -> tuple[list[str], str]:
    for name in (SAFETENSORS, BIN):
        if (directory / name).exists():
            return [name], name
        index = f"{name}.index.json"
        if (directory / index).exists():
            return _listed(directory, index), index
    raise CheckpointError(f"The checkpoint has no weights: neither {SAFETENSORS} nor {BIN}, nor an index of either.")


def _listed(directory: Path, index: str) -> list[str]:
    try:
        names = sorted(set(json.loads((directory / index).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"The checkpoint's {index} cannot be read.") from error
    for name in names:
        # a file of this directory and no other
        if not isinstance(name, str) or Path(name).name != name or not (directory / name).is_file():
            raise CheckpointError(f"The checkpoint's {index} names a file that is not there: {name}.")
    return names


def _open_one(path: Path) -> tuple[list[str], Getter]:
    if path.suffix != ".bin":
        return _windowed(path, _map_safetensors)
    try:
        return _windowed(path, _map_bin)
    except _NotAnArchive:
        # the format from before PyTorch 1.6 cannot be mapped; each tensor is forgotten once it is got
        state = load_bin(path, mmap=False)
        return list(state), state.pop


def _windowed(path: Path, map_file: Callable[[Path], tuple[list[str], Getter]]) -> tuple[list[str], Getter]:
    """The keys of the file and its tensors, a new mapping taking the old one's place after each window of bytes."""
    keys, mapped = map_file(path)
    window_bytes = max(_LEAST_WINDOW_BYTES, path.stat().st_size // _WINDOWS)
    read_bytes = 0

    def get(key: str) -> Tensor:
        nonlocal mapped, read_bytes
        if read_bytes > window_bytes:
            read_bytes = 0
            mapped = map_file(path)[1]
        tensor = mapped(key)
        read_bytes += tensor.numel() * tensor.element_size()
        return tensor

    return keys, get


def _map_safetensors(path: Path) -> tuple[list[str], Getter]:
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"The checkpoint's {path.name} is truncated or not a safetensors file.") from error
    return list(file.keys()), file.get_tensor  # type: ignore[no-untyped-call]


def _map_bin(path: Path) -> tuple[list[str], Getter]:
    state = load_bin(path, mmap=True)
    return list(state), state.__getitem__


class _NotAnArchive(Exception):
    """A file that PyTorch cannot map, for its age or because it is broken."""


def load_bin(path: Path, mmap: bool) -> dict[str, Tensor]:
    """A file of PyTorch's own format, by key. Raises CheckpointError for one that holds more than tensors."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"The checkpoint's {path.name} holds more than tensors, or is damaged. Nothing in it was run; "
            "a safetensors file of the same checkpoint is the way."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        if mmap and isinstance(error, RuntimeError):
            raise _NotAnArchive from error
        raise CheckpointError(f"The checkpoint's {path.name} is truncated or not a PyTorch file.") from error
    tensors: dict[str, Tensor] = state if isinstance(state, dict) else {}
    if not tensors or not all(isinstance(key, str) and isinstance(one, Tensor) for key, one in tensors.items()):
        raise CheckpointError(f"The checkpoint's {path.name} is not a dictionary of tensors.")
    return tensors
