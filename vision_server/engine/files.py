"""A checkpoint directory's weight files as tensors by key, mapped into memory. Knows no names and runs nothing.

One safetensors file, several with an index, or PyTorch's own format, in this order. PyTorch's is a pickle: it is read
with `weights_only`, which refuses everything but tensors and plain containers.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vision_server.errors import CheckpointError

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"


@dataclass(frozen=True)
class Tensors:
    """`file_of` says which file holds a key; `get` maps that one tensor. `nbytes` is the size of the files."""

    file_of: dict[str, str]
    get: Callable[[str], Tensor]
    nbytes: int


@contextmanager
def open_tensors(directory: Path) -> Iterator[Tensors]:
    """The tensors of `directory`, valid inside the context. Raises CheckpointError, naming the file."""
    names = _weight_files(directory)
    with ExitStack() as stack:
        file_of: dict[str, str] = {}
        getters: dict[str, Callable[[str], Tensor]] = {}
        for name in names:
            keys, getters[name] = _open_one(directory / name, stack)
            file_of.update(dict.fromkeys(keys, name))

        def get(key: str) -> Tensor:
            try:
                return getters[file_of[key]](key)
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{file_of[key]}: the tensor {key} cannot be read.") from error

        yield Tensors(file_of, get, sum((directory / name).stat().st_size for name in names))


def _weight_files(directory: Path) -> list[str]:
    for name in (SAFETENSORS, BIN):
        if (directory / name).exists():
            return [name]
        index = f"{name}.index.json"
        if (directory / index).exists():
            return _listed(directory, index)
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


def _open_one(path: Path, stack: ExitStack) -> tuple[list[str], Callable[[str], Tensor]]:
    if path.suffix != ".bin":
        try:
            file = stack.enter_context(safe_open(path, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"The checkpoint's {path.name} is truncated or not a safetensors file.") from error
        return list(file.keys()), file.get_tensor
    state = _load_bin(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"The checkpoint's {path.name} is not a dictionary of tensors.")
    return list(state), state.__getitem__


def _load_bin(path: Path) -> object:
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format from before PyTorch 1.6 is no archive and cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"The checkpoint's {path.name} holds more than tensors, or is damaged. Nothing in it was run; "
            "a safetensors file of the same checkpoint is the way."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"The checkpoint's {path.name} is truncated or not a PyTorch file.") from error
