"""The embedded checkpoint's architecture and the files that describe it: Florence-2's own, small.

Native layout, so that transformers loads the directory too. The last stage keeps its stride at 1: at 128 px the picture
becomes 8 x 8 positions of 16 px, fine enough for boxes and letters.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from vision_server.engine.config import Config, GenerationConfig, PreprocessConfig, TextConfig, VisionConfig
from vision_server.engine.describe import describe_native, write_files
from vision_server.engine.preprocess import IMAGE_TOKEN

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
    write_files(directory, describe_native(config, "float16"))
    tokenizer.save(str(directory / "tokenizer.json"))
