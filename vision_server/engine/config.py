"""What a checkpoint directory says about its model, as frozen values. Loads no weights.

Three dialects of config.json are read: Microsoft's original, the original as a fine-tune re-saves it, and the native
one of transformers. Only the names in vision_config differ; what a part's model type is called is not looked at, since
re-saved files call it `florence2_language`, `davit` or nothing.

The token ids of a sequence's ends are BART's and the same in every Florence-2 checkpoint (bos 0, pad 1, eos 2, decoder
start 2); top-level ids in re-saved files are known to be wrong and are not read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vision_server.errors import CheckpointError

BOS, PAD, EOS, DECODER_START = 0, 1, 2, 2
PROCESSOR_FILE = "processor_config.json"
_FAR_TOO_LARGE = 1 << 24  # no width, depth or count of a model comes near it


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
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # a channel each
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
    banned_grounding_tokens: tuple[str, ...] = ()  # phrases that an answer of grounding leaves out; none unless asked

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of features that the vision tower makes of a picture."""
        height, width = self.preprocess.height, self.preprocess.width
        vision = self.vision
        for size, stride, padding in zip(vision.patch_size, vision.patch_stride, vision.patch_padding, strict=True):
            height, width = ((side + 2 * padding - size) // stride + 1 for side in (height, width))
        return height, width


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
            banned_grounding_tokens=_read_banned(directory),
        )
    except TypeError as error:  # a dataclass says which of its values was not given
        raise CheckpointError(f"config.json lacks a value that Florence-2 needs: {_missing(text)}.") from error
    _check_values("vision_config", config.vision)
    _check_values("text_config", config.text)
    _check_fit(config)
    return config


def _missing(text: dict[str, Any]) -> str:
    absent = (f.name for f in fields(TextConfig) if f.name not in text)
    return f"text_config.{next(absent, '')}"


_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


def _check_values(part: str, config: VisionConfig | TextConfig) -> None:
    """Raises CheckpointError for a value of the wrong type, and for a number that no network can be built with."""
    for f in fields(config):
        value = getattr(config, f.name)
        is_list = str(f.type).startswith("tuple")
        kind = str(f.type).removeprefix("tuple[").partition(",")[0]
        least = 0 if f.name == "patch_padding" else 1
        for one in value if is_list and isinstance(value, tuple) else (value,):
            right = isinstance(one, _KINDS[kind]) and isinstance(one, bool) is (kind == "bool")
            if not right or is_list is not isinstance(value, tuple):
                raise CheckpointError(f"config.json: {part}.{f.name} has the wrong type.")
            if kind in ("int", "float") and not least <= one < _FAR_TOO_LARGE:
                raise CheckpointError(f"config.json: {part}.{f.name} cannot be {one}.")


def _check_fit(config: Config) -> None:
    """Raises CheckpointError for values that do not fit each other."""
    vision, text = config.vision, config.text
    per_stage = ("depths", "patch_size", "patch_stride", "patch_padding", "patch_prenorm", "num_heads", "num_groups")
    if any(len(getattr(vision, name)) != len(vision.embed_dim) for name in per_stage):
        raise CheckpointError("config.json: the per-stage lists of vision_config differ in length.")
    for name, widths in (("num_heads", vision.embed_dim), ("num_groups", vision.embed_dim)):
        if any(width % parts for width, parts in zip(widths, getattr(vision, name), strict=True)):
            raise CheckpointError(f"config.json: vision_config.{name} does not divide the widths of the stages.")
    for name in ("encoder_attention_heads", "decoder_attention_heads"):
        if text.d_model % getattr(text, name):
            raise CheckpointError(f"config.json: text_config.{name} does not divide d_model.")
    if vision.projection_dim != text.d_model:
        raise CheckpointError("config.json: vision_config.projection_dim is not text_config.d_model.")
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        forced = getattr(config.generation, name)
        if forced is not None and not (isinstance(forced, int) and 0 <= forced < text.vocab_size):
            raise CheckpointError(f"The checkpoint's {name} is no id of its vocabulary.")
    sides, height, width = config.grid, config.preprocess.height, config.preprocess.width
    if not 1 <= min(sides) <= max(sides) <= vision.max_position_embeddings:
        raise CheckpointError(
            f"The checkpoint asks for pictures of {width} x {height} pixels, for which its vision_config has no place."
        )
    if sides[0] * sides[1] + 1 + 3 > text.max_position_embeddings:
        raise CheckpointError("config.json: text_config.max_position_embeddings leaves no room beside a picture.")


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
    name = "preprocessor_config.json"
    if (directory / name).exists():
        raw = _read_json(directory / name)
    elif (directory / PROCESSOR_FILE).exists():
        name = PROCESSOR_FILE
        raw = _read_json(directory / name).get("image_processor") or {}
    else:
        return PreprocessConfig()
    default = PreprocessConfig()
    try:
        size = raw.get("size") or {}
        size = size if isinstance(size, dict) else {"height": size, "width": size}
        read = PreprocessConfig(
            height=int(size.get("height", default.height)),
            width=int(size.get("width", default.width)),
            mean=tuple(map(float, raw.get("image_mean") or default.mean)),
            std=tuple(map(float, raw.get("image_std") or default.std)),
            resample=int(raw["resample"]) if raw.get("resample") is not None else default.resample,
            rescale_factor=float(raw.get("rescale_factor") or default.rescale_factor),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"The checkpoint's {name} has a value of the wrong type.") from error
    sides_fit = all(1 <= side < _FAR_TOO_LARGE for side in (read.height, read.width))
    if not sides_fit or len(read.mean) != 3 or len(read.std) != 3 or 0.0 in read.std or not 0 <= read.resample <= 5:
        raise CheckpointError(f"The checkpoint's {name} has a size, mean, std or resample that no picture can have.")
    return read


def _read_banned(directory: Path) -> tuple[str, ...]:
    """What `processor_config.json` has grounding leave out; where transformers' post-processor looks for it."""
    if not (directory / PROCESSOR_FILE).exists():
        return ()
    raw = _read_json(directory / PROCESSOR_FILE).get("post_processor_config") or {}
    try:
        phrases = (raw.get("phrase_grounding") or {}).get("banned_grounding_tokens") or ()
        if isinstance(phrases, str) or not all(isinstance(phrase, str) for phrase in phrases):
            raise TypeError
    except (TypeError, AttributeError) as error:
        raise CheckpointError(
            f"The checkpoint's {PROCESSOR_FILE}: post_processor_config.phrase_grounding.banned_grounding_tokens "
            "is not a list of phrases."
        ) from error
    return tuple(phrases)
