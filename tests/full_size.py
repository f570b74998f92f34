"""Checkpoints as large as the published ones, original layout, random values, written without holding them in memory.
Keys and shapes are those of microsoft/Florence-2-base and -large (tests/data). Not a test."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

DATA = Path(__file__).parent / "data"
HEAD = "language_model.lm_head.weight"
COPIES = tuple(f"language_model.model.{side}.embed_tokens.weight" for side in ("encoder", "decoder"))
BIAS = "language_model.final_logits_bias"
_BLOCK_VALUES = (1 << 20) + 7  # no shape's multiple, so that no two rows of a matrix are alike


def shapes(size: str, *, head: bool, positions: int = 1024) -> dict[str, list[int]]:
    """Key -> shape as files hold them: the copies of the embedding left out, the head stored or not."""
    read: dict[str, list[int]] = json.loads((DATA / f"state_dict_keys.{size}.json").read_text(encoding="utf-8"))
    left_out = {*COPIES, *(() if head else (HEAD,))}
    kept = {key: shape for key, shape in read.items() if key not in left_out}
    return {k: [positions + 2, s[1]] if k.endswith("embed_positions.weight") else s for k, s in kept.items()}


def write_description(directory: Path, size: str, positions: int = 1024) -> None:
    """config.json of the stock checkpoint, with a tokenizer that is small and quick to read."""
    config = json.loads((DATA / f"config.{size}.json").read_text(encoding="utf-8"))
    config["text_config"]["max_position_embeddings"] = positions
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    demo = DATA.parents[1] / "vision_server" / "models" / "demo"
    shutil.copy(demo / "tokenizer.json", directory)


def write_safetensors(directory: Path, size: str, *, head: bool, positions: int = 1024, dtype: str = "float16") -> Path:
    """`model.safetensors` in `dtype` (float16 or float32), a norm's weights around one, all else around zero."""
    kept = shapes(size, head=head, positions=positions)
    kind = np.dtype(dtype)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, shape in sorted(kept.items()):
        begin, end = end, end + math.prod(shape) * kind.itemsize
        header[key] = {"dtype": f"F{8 * kind.itemsize}", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = np.random.default_rng(0).normal(0.0, 0.02, _BLOCK_VALUES).astype(kind)
    path = directory / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, (key, shape) in enumerate(sorted(kept.items())):
            around_one = "norm" in key and key.endswith("weight")
            for part in _values(block, 7919 * number % len(block), math.prod(shape)):
                file.write((part + kind.type(1.0) if around_one else part).tobytes())
    return path


def _values(block: npt.NDArray[Any], start: int, count: int) -> Iterator[npt.NDArray[Any]]:
    """`count` values of the block, which is walked round from `start`."""
    for begin in itertools.chain([start], itertools.repeat(0)):
        part = block[begin : begin + count]
        yield part
        count -= len(part)
        if not count:
            return


def write_bin(directory: Path, size: str, *, head: bool) -> Path:
    """`pytorch_model.bin` with the values that `write_safetensors` gives; takes the checkpoint's size in memory."""
    source = write_safetensors(directory, size, head=head)
    # a clone each: mapped tensors share one storage, which would be saved whole for every one of them
    state = {key: tensor.clone() for key, tensor in load_file(source).items()}
    source.unlink()
    path = directory / "pytorch_model.bin"
    torch.save(state, path)
    return path
