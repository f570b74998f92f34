"""The files that describe a checkpoint, made anew from what was read of it: for a layout other than the one it had, and
for one that had none. Writes no weights.

The native layout's are all that transformers needs to load model and processor. The original's `config.json` names no
code: what this project reads needs none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vision_server.engine.config import BOS, DECODER_START, EOS, PAD, PROCESSOR_FILE, Config
from vision_server.engine.preprocess import ENDS, IMAGE_TOKEN

_SEARCH = {"num_beams": 3, "early_stopping": True, "no_repeat_ngram_size": 3, "length_penalty": 1.0}
_IDS = {"bos_token_id": BOS, "pad_token_id": PAD, "eos_token_id": EOS}
_COMMON = {
    "architectures": ["Florence2ForConditionalGeneration"],
    "model_type": "florence2",
    "is_encoder_decoder": True,
}


def describe_native(config: Config, dtype: str, is_tied: bool = True) -> dict[str, dict[str, Any]]:
    """File name -> its JSON. `is_tied`: the head is the embedding."""
    ends = {**_IDS, "decoder_start_token_id": DECODER_START}
    files: dict[str, dict[str, Any]] = {
        "config.json": {
            **_COMMON,
            "tie_word_embeddings": is_tied,
            "image_token_id": config.image_token_id,
            **_IDS,
            "dtype": dtype,
            "vision_config": {"model_type": "florence_vision", **vars(config.vision)},
            "text_config": {"model_type": "bart", **vars(config.text), **ends, "is_encoder_decoder": True},
        },
        "generation_config.json": {**vars(config.generation), **_SEARCH, **ends},
        "preprocessor_config.json": _pictures(config),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "Florence2Processor",
            **dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), ENDS, strict=True)),
            "cls_token": ENDS[0],
            "sep_token": ENDS[2],
            "image_token": IMAGE_TOKEN,
            "extra_special_tokens": {"image_token": IMAGE_TOKEN},
            "clean_up_tokenization_spaces": False,
            "model_max_length": config.text.max_position_embeddings,
        },
    }
    if config.banned_grounding_tokens:
        banned = {"phrase_grounding": {"banned_grounding_tokens": config.banned_grounding_tokens}}
        files[PROCESSOR_FILE] = {"processor_class": "Florence2Processor", "post_processor_config": banned}
    return files


def describe_original(config: Config, dtype: str, is_tied: bool = True) -> dict[str, dict[str, Any]]:
    """As microsoft/Florence-2-* has it; the search's defaults stand in text_config."""
    vision, text = dict(vars(config.vision)), {**vars(config.text), **vars(config.generation), **_SEARCH, **_IDS}
    frames, positions = vision.pop("max_temporal_embeddings"), vision.pop("max_position_embeddings")
    vision |= {
        "model_type": "davit",
        "dim_embed": vision.pop("embed_dim"),
        "in_chans": vision.pop("in_channels"),
        "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": frames},
        "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": positions},
        "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
    }
    text |= {"decoder_start_token_id": DECODER_START, "is_encoder_decoder": True, "tie_word_embeddings": is_tied}
    return {
        "config.json": {
            **_COMMON,
            "tie_word_embeddings": is_tied,
            **_IDS,
            "projection_dim": config.vision.projection_dim,
            "torch_dtype": dtype,
            "vocab_size": config.text.vocab_size,
            "vision_config": vision,
            "text_config": text,
        },
        "preprocessor_config.json": _pictures(config),
    }


def _pictures(config: Config) -> dict[str, Any]:
    preprocess, (rows, columns) = config.preprocess, config.grid
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "Florence2Processor",
        "image_seq_length": rows * columns + 1,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": preprocess.height, "width": preprocess.width},
        "resample": preprocess.resample,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": preprocess.rescale_factor,
        "do_normalize": True,
        "image_mean": preprocess.mean,
        "image_std": preprocess.std,
    }


def write_files(directory: Path, files: dict[str, dict[str, Any]]) -> None:
    for name, value in files.items():
        (directory / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
