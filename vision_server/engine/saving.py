"""A network that was loaded from a checkpoint directory -> another checkpoint directory, in either layout.

In the layout that it had, all files but the weights are copied, and `config.json` says what has changed. In the other
one they are made anew; the native layout then gets a token and a row of the embedding that the original does not have,
for the places of a picture in the text.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from vision_server.engine.adapter import Adapter
from vision_server.engine.config import Config, read_config
from vision_server.engine.describe import describe_native, describe_original, write_files
from vision_server.engine.device import DTYPES
from vision_server.engine.files import SAFETENSORS, open_tensors
from vision_server.engine.names import HEAD, SHARED, Layout, keys_of, layout_of
from vision_server.engine.network import Network
from vision_server.engine.preprocess import IMAGE_TOKEN, TOKENIZER_FILE, PromptTokenizer
from vision_server.engine.weights import Progress, is_tied, load_network, state_in

_KEPT = ("*.json", "*.txt", "*.model", "*.py", "*.jinja", "LICENSE*")  # beside the weights; code is copied, never run


def layout_in(directory: Path) -> Layout:
    """Of a checkpoint's weights. Raises CheckpointError."""
    with open_tensors(directory) as tensors:
        return layout_of(tensors.file_of)


def merge_checkpoint(
    source: Path,
    adapter: Path | None,
    directory: Path,
    layout: str | None,
    dtype: str,
    progress: Progress | None = None,
) -> None:
    """Write the checkpoint in `source` with the adapter merged in. `layout` is one of Layout's values, None its own.

    Raises as `save_checkpoint` does.
    """
    lora = Adapter.read(adapter) if adapter is not None else None
    network = load_network(source, read_config(source), torch.device("cpu"), torch.float32, progress, lora)
    save_checkpoint(source, network, directory, Layout(layout) if layout else layout_in(source), DTYPES[dtype])


def save_checkpoint(source: Path, network: Network, directory: Path, layout: Layout, dtype: torch.dtype) -> None:
    """Write what `network`, loaded plain from `source`, has become into `directory`, which exists and is empty.

    Raises CheckpointError for a `source` that cannot be read, OSError where the disk is full.
    """
    config, dtype_name = read_config(source), str(dtype).removeprefix("torch.")
    if layout is layout_in(source):
        for path in (path for pattern in _KEPT for path in source.glob(pattern)):
            if path.is_file() and not path.name.endswith(".index.json"):
                shutil.copyfile(path, directory / path.name)
        _amend(directory / "config.json", dtype_name, is_tied(network), layout)
    elif layout is Layout.ORIGINAL:
        write_files(directory, describe_original(config, dtype_name, is_tied(network)))
        shutil.copyfile(source / TOKENIZER_FILE, directory / TOKENIZER_FILE)
    else:
        config = _with_picture_token(source, directory, config)
        write_files(directory, describe_native(config, dtype_name, is_tied(network)))
    rows = config.text.vocab_size
    state = {key: _grown(key, tensor, rows).to("cpu", dtype).contiguous() for key, tensor in state_in(network, layout)}
    save_file(state, directory / SAFETENSORS, metadata={"format": "pt"})
    # the library writes it for this user alone, and a daemon may be another one
    (directory / SAFETENSORS).chmod((directory / "config.json").stat().st_mode & 0o777)


def _amend(path: Path, dtype: str, tied: bool, layout: Layout) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("dtype", "torch_dtype"):
        if name in config:
            config[name] = dtype
    config["tie_word_embeddings"] = tied
    if layout is Layout.NATIVE:  # there the text model's own entry is about the embedding's other copies
        config["text_config"]["tie_word_embeddings"] = True
    else:
        config["text_config"]["tie_word_embeddings"] = tied
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _with_picture_token(source: Path, directory: Path, config: Config) -> Config:
    """Write the tokenizer with the token; the configuration that has room for it."""
    tokenizer = PromptTokenizer(source)
    place = tokenizer.add(IMAGE_TOKEN)
    tokenizer.save(directory / TOKENIZER_FILE)
    text = replace(config.text, vocab_size=max(config.text.vocab_size, place + 1))
    return replace(config, text=text, image_token_id=place)


_WORDS = {key for name in (SHARED, HEAD) for layout in Layout for key in keys_of(name, layout)}


def _grown(key: str, tensor: Tensor, rows: int) -> Tensor:
    """With as many rows as the vocabulary has; new ones are the mean, which is no picture's likeliest next word."""
    if key not in _WORDS or len(tensor) >= rows:
        return tensor
    return torch.cat([tensor, tensor.mean(dim=0, keepdim=True).expand(rows - len(tensor), -1)])
