"""What a checkpoint directory says about its model, as frozen values. Loads no weights.

Three dialects of config.json are read: Microsoft's original, the original as a fine-tune re-saves it, and the native
one of transformers. Only the names in vision_config differ; what a part's model type is called is not looked at, since
re-saved files call it `florence2_language`, `davit` or nothing.

The token ids of a sequence's ends are BART's and the same in every Florence-2 checkpoint (bos 0, pad 1, eos 2, decoder
start 2); top-level ids in re-saved files are known to be wrong and are not read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vision_server.errors import CheckpointError

BOS, PAD, EOS, DECODER_START = 0, 1, 2, 2


@dataclass(frozen=True)
class VisionConfig:
    """DaViT's shape, one entry a stage where it is a tuple (Ding et al. 2022, "DaViT: Dual Attention ViT")."""

    in_channels: int = 3
    depths: tuple[int, ...] = (1, 1, 9, 1)
    patch_size: tuple[int, ...] = (7, 3, 3, 3)
    patch_stride: tuple[int, ...] = (4, 2, 2, 2)
    patch_padding: tuple[int, ...] = (3, 1, 1, 1)
    patch_prenorm: tuple[bool, ...] = (False, True, True, True)
    embed_dim: tuple[int, ...] = (128, 256, 512, 1024)
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    num_groups: tuple[int, ...] = (4, 8, 16, 32)
    window_size: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    projection_dim: int = 1024
    max_temporal_embeddings: int = 100
    max_position_embeddings: int = 50


@dataclass(frozen=True)
class TextConfig:
    """BART's shape (Lewis et al. 2019)."""

    vocab_size: int
    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_attention_heads: int
    decoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    max_position_embeddings: int
    scale_embedding: bool = False
    activation_function: str = "gelu"


@dataclass(frozen=True)
class GenerationConfig:
    """The tokens that a checkpoint forces at the two ends of an answer, None for none. How to search is the request's
    to say, with defaults that are the same for every checkpoint."""

    forced_bos_token_id: int | None = BOS
    forced_eos_token_id: int | None = EOS


@dataclass(frozen=True)
class PreprocessConfig:
    """Picture -> pixels: `height` and `width` in pixels, `resample` as Pillow numbers its filters (3 is bicubic)."""

    height: int = 768
    width: int = 768
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resample: int = 3
    rescale_factor: float = 1 / 255


@dataclass(frozen=True)
class Config:
    vision: VisionConfig
    text: TextConfig
    image_token_id: int | None  # the original layout has none; the engine needs none either
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)


def read_config(directory: Path) -> Config:
    """Read `config.json` and its neighbours.

    Raises CheckpointError, naming the file, when one is missing, is not JSON, is not Florence-2 or lacks a value.
    """
    raw = _read_json(directory / "config.json")
    if raw.get("model_type") != "florence2":
        raise CheckpointError("config.json does not describe a Florence-2 model (model_type is not florence2).")
    vision, text = raw.get("vision_config"), raw.get("text_config")
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise CheckpointError("config.json has no vision_config and text_config; it is not a Florence-2 checkpoint.")
    if "dim_embed" in vision:
        vision = _from_original(vision)
    if "embed_dim" not in vision:
        raise CheckpointError("config.json: vision_config has neither embed_dim nor dim_embed, so it is no Florence-2.")
    if text.get("activation_function", "gelu") != "gelu":
        raise CheckpointError("config.json asks for a text activation other than gelu, which Florence-2 never uses.")
    try:
        config = Config(
            vision=VisionConfig(**_known(VisionConfig, vision)),
            text=TextConfig(**_known(TextConfig, text)),
            image_token_id=raw.get("image_token_id"),
            generation=_read_generation(directory, text),
            preprocess=_read_preprocess(directory),
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError("config.json lacks a value that Florence-2 needs, or one has the wrong type.") from error
    stages = len(config.vision.embed_dim)
    per_stage = ("depths", "patch_size", "patch_stride", "patch_padding", "patch_prenorm", "num_heads", "num_groups")
    if any(len(getattr(config.vision, name)) != stages for name in per_stage):
        raise CheckpointError("config.json: the per-stage lists of vision_config differ in length.")
    return config


def _from_original(vision: dict[str, Any]) -> dict[str, Any]:
    """The original's vision_config in the native one's words. Raises CheckpointError for what was never published."""
    positions, frames = vision.get("image_pos_embed") or {}, vision.get("visual_temporal_embedding") or {}
    sources = vision.get("image_feature_source", ["spatial_avg_pool", "temporal_avg_pool"])
    if (
        positions.get("type", "learned_abs_2d") != "learned_abs_2d"
        or frames.get("type", "COSINE") != "COSINE"
        or list(sources) != ["spatial_avg_pool", "temporal_avg_pool"]
    ):
        raise CheckpointError("config.json asks for positions or image features that no published Florence-2 has.")
    renamed = {
        "embed_dim": vision["dim_embed"],
        "in_channels": vision.get("in_chans", 3),
        "max_position_embeddings": positions.get("max_pos_embeddings", 50),
        "max_temporal_embeddings": frames.get("max_temporal_embeddings", 100),
    }
    return {**vision, **renamed}


def _known(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """The values `kind` has fields for, lists as tuples."""
    names = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in names}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"The checkpoint has no {path.name}.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"The checkpoint's {path.name} cannot be read as JSON.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"The checkpoint's {path.name} is not a JSON object.")
    return value


def _read_generation(directory: Path, text: dict[str, Any]) -> GenerationConfig:
    """`generation_config.json` where it exists, over the effective defaults that stand in text_config."""
    values = {k: v for k, v in _known(GenerationConfig, text).items() if v is not None}
    if (directory / "generation_config.json").exists():
        read = _known(GenerationConfig, _read_json(directory / "generation_config.json"))
        values.update({k: v for k, v in read.items() if v is not None})
    return GenerationConfig(**values)


def _read_preprocess(directory: Path) -> PreprocessConfig:
    """`preprocessor_config.json`, else `image_processor` of `processor_config.json`, else Florence-2's own."""
    if (directory / "preprocessor_config.json").exists():
        raw = _read_json(directory / "preprocessor_config.json")
    elif (directory / "processor_config.json").exists():
        raw = _read_json(directory / "processor_config.json").get("image_processor") or {}
    else:
        return PreprocessConfig()
    default, size = PreprocessConfig(), raw.get("size") or {}
    return PreprocessConfig(
        height=int(size.get("height", default.height)),
        width=int(size.get("width", default.width)),
        mean=tuple(raw.get("image_mean") or default.mean),
        std=tuple(raw.get("image_std") or default.std),
        resample=int(raw["resample"]) if raw.get("resample") is not None else default.resample,
        rescale_factor=float(raw.get("rescale_factor") or default.rescale_factor),
    )
