"""The other layouts of a native checkpoint, made by the inverse of the engine's rename table. Not a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vision_server.engine.config import read_config
from vision_server.engine.names import TRANSPOSED, Layout, keys_of
from vision_server.engine.network import Network

State = dict[str, Tensor]
SHARED = "language_model.model.shared.weight"
HEAD = "language_model.lm_head.weight"
COPIES = tuple(f"language_model.model.{side}.embed_tokens.weight" for side in ("encoder", "decoder"))
BIAS = "language_model.final_logits_bias"


def change_state(directory: Path, edit: Callable[[State], object]) -> None:
    path = directory / "model.safetensors"
    state = load_file(path)
    edit(state)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata={"format": "pt"})


def change_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def to_original(directory: Path) -> None:
    """As microsoft/Florence-2-* laid it out at first: everything stored, the head and the embedding's copies too."""
    with torch.device("meta"):
        names = list(Network(read_config(directory)).state_dict())

    def rename(state: State) -> None:
        native, copies = dict(state), 0
        state.clear()
        for name in names:
            for before, after in zip(keys_of(name, Layout.NATIVE), keys_of(name, Layout.ORIGINAL), strict=True):
                if before in native:
                    state[after] = native[before].T if after in TRANSPOSED else native[before]
                    copies += 1
        assert copies == len(native) == len(state)
        shared = state[SHARED]
        state.setdefault(HEAD, shared.clone())
        state.update({key: shared.clone() for key in COPIES})
        state[BIAS] = torch.zeros(1, len(shared))

    change_state(directory, rename)
    change_json(directory / "config.json", _to_original_config)
    (directory / "generation_config.json").unlink()


def _to_original_config(config: dict[str, Any]) -> None:
    vision, text = config["vision_config"], config["text_config"]
    vision["model_type"] = "davit"
    vision["dim_embed"] = vision.pop("embed_dim")
    vision["image_pos_embed"] = {"type": "learned_abs_2d", "max_pos_embeddings": vision.pop("max_position_embeddings")}
    frames = vision.pop("max_temporal_embeddings")
    vision["visual_temporal_embedding"] = {"type": "COSINE", "max_temporal_embeddings": frames}
    vision["image_feature_source"] = ["spatial_avg_pool", "temporal_avg_pool"]
    config["auto_map"] = {"AutoConfig": "configuration_florence2.Florence2Config"}
    del config["image_token_id"]
    del text["model_type"]
    text.update(forced_bos_token_id=0, forced_eos_token_id=2, num_beams=3, no_repeat_ngram_size=3)


def to_published(directory: Path) -> None:
    """The original layout as it is published today: what is a copy of the embedding is left out."""
    to_original(directory)
    change_state(directory, lambda state: [state.pop(key) for key in (HEAD, *COPIES)])


def to_resaved(directory: Path) -> None:
    """The original layout as fine-tunes save it: other part names, wrong ids, embedding and head both stored."""
    to_original(directory)
    change_state(directory, lambda state: [state.pop(key) for key in COPIES])
    change_json(directory / "config.json", as_resaved)


def as_resaved(config: dict[str, Any]) -> None:
    config["text_config"]["model_type"] = "florence2_language"
    config["vision_config"]["model_type"] = ""
    config.update(bos_token_id=2, eos_token_id=1, pad_token_id=0)
