"""What a run leaves to be served: an adapter as PEFT writes it, or a checkpoint like the one that was taught."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from torch import nn

from vision_server.engine.config import Config
from vision_server.engine.files import open_tensors
from vision_server.engine.saving import layout_in, save_checkpoint
from vision_server.engine.weights import load_network, native_state

ADAPTER, MODEL = "adapter", "model"


def write(model: nn.Module, source: Path, config: Config, folder: Path) -> Path:
    """Writes `folder/adapter` or `folder/model` anew; its path. `source` is the directory of what was taught."""
    made = folder / (ADAPTER if isinstance(model, PeftModel) else MODEL)
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    if isinstance(model, PeftModel):
        model.save_pretrained(str(made), save_embedding_layers=False)
        (made / "README.md").unlink(missing_ok=True)  # a form for the hub, not filled in
        # the library writes weights for this user alone, and a daemon may be another one
        (made / SAFETENSORS_WEIGHTS_NAME).chmod((made / CONFIG_NAME).stat().st_mode & 0o777)
    else:
        _write_checkpoint(model, source, config, made)
    return made


def publish(made: Path, folder: Path) -> None:
    """Puts what `write` made in the place of its forerunner in `folder`, whole; its own folder goes."""
    place, old = folder / made.name, folder / f"{made.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.replace(old)
    made.replace(place)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(made.parent, ignore_errors=True)


def _write_checkpoint(model: nn.Module, source: Path, config: Config, folder: Path) -> None:
    """In the source's own layout and precision, its other files beside the weights."""
    network = load_network(source, config, torch.device("cpu"), torch.float32)
    native = model.state_dict()
    with torch.no_grad():
        for key, tensor in native_state(network):
            tensor.copy_(native[key])
    with open_tensors(source) as tensors:
        dtype = tensors.get(next(iter(tensors.file_of))).dtype
    save_checkpoint(source, network, folder, layout_in(source), dtype)
