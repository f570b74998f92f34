"""The embedded checkpoint's architecture and the files that describe it: Florence-2's own, small.

Native layout, so that transformers loads the directory too. The last stage keeps its stride at 1: at 128 px the picture
becomes 8 x 8 positions of 16 px, fine enough for boxes and letters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from vision_server.engine.config import Config, GenerationConfig, PreprocessConfig, TextConfig, VisionConfig
from vision_server.training.vocabulary import ENDS, IMAGE_TOKEN

SIDE_PX = 128
GRID = 8


def demo_config(tokenizer: Tokenizer) -> Config:
    vision = VisionConfig(
        depths=(1, 1, 2, 1),
        patch_stride=(4, 2, 2, 1),
        embed_dim=(24, 64, 128, 256),
        num_heads=(2, 4, 4, 8),
        num_groups=(2, 4, 4, 8),
        window_size=8,
        projection_dim=192,
        max_temporal_embeddings=4,
        max_position_embeddings=GRID,
    )
    text = TextConfig(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=192,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=768,
        decoder_ffn_dim=768,
        max_position_embeddings=256,
    )
    return Config(
        vision=vision,
        text=text,
        image_token_id=tokenizer.get_vocab()[IMAGE_TOKEN],
        generation=GenerationConfig(),
        preprocess=PreprocessConfig(height=SIDE_PX, width=SIDE_PX),
    )


def write_description(directory: Path, config: Config, tokenizer: Tokenizer) -> None:
    """Everything of the checkpoint but its weights."""
    directory.mkdir(parents=True, exist_ok=True)
    generation: dict[str, Any] = {
        **vars(config.generation),
        "num_beams": 3,
        "early_stopping": True,
        "no_repeat_ngram_size": 3,
        "length_penalty": 1.0,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }
    description = {
        "architectures": ["Florence2ForConditionalGeneration"],
        "model_type": "florence2",
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "image_token_id": config.image_token_id,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float16",
        "vision_config": {"model_type": "florence_vision", **vars(config.vision)},
        "text_config": {
            "model_type": "bart",
            **vars(config.text),
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "is_encoder_decoder": True,
        },
    }
    preprocess = config.preprocess
    size = {"height": preprocess.height, "width": preprocess.width}
    picture = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "Florence2Processor",
        "image_seq_length": GRID * GRID + 1,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "resample": preprocess.resample,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": preprocess.rescale_factor,
        "do_normalize": True,
        "image_mean": preprocess.mean,
        "image_std": preprocess.std,
    }
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), ENDS, strict=True))
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "Florence2Processor",
        **names,
        "cls_token": "<s>",
        "sep_token": "</s>",
        "image_token": IMAGE_TOKEN,
        "extra_special_tokens": {"image_token": IMAGE_TOKEN},
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.text.max_position_embeddings,
    }
    for name, value in {
        "config.json": description,
        "generation_config.json": generation,
        "preprocessor_config.json": picture,
        "tokenizer_config.json": words,
    }.items():
        (directory / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(str(directory / "tokenizer.json"))
