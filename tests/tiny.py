"""Random Florence-2 checkpoints of a few thousand parameters, written by transformers in the native layout, and how the
oracle generates from them. Not a test."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import Florence2Config, Florence2ForConditionalGeneration, GenerationConfig

from vision_server.engine.config import PreprocessConfig
from vision_server.engine.florence import Florence
from vision_server.engine.preprocess import FLORENCE_TOKENS, to_pixels

EOS = 2
ENDS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # ids 0 to 4, as in BART
SOME_TEXT = (
    "car, What does the image describe? Locate the objects with category name in the image. Locate the phrases in the "
    "caption: a car, two cars and a tree beside the fish. What is the text in the image, with regions? Describe in "
    "detail what is shown in the image. A red sign that says open stands left of a green house."
)
LIVELY = [EOS, *range(300, 324), *range(900, 908)]  # tokens whose logits stand out, so that sentences vary and end


@dataclass(frozen=True)
class Shape:
    name: str
    side_px: int = 64
    seed: int = 0
    vision: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)


SHAPES = (
    Shape("padded-windows", side_px=96, vision={"window_size": 5}),
    Shape(
        "deep-third-stage",
        seed=1,
        vision={
            "depths": [1, 1, 3, 1],
            "window_size": 4,
            "embed_dim": [16, 24, 32, 48],
            "num_groups": [2, 4, 4, 4],
            "projection_dim": 48,
        },
        text={"d_model": 48, "encoder_layers": 1, "decoder_layers": 3, "decoder_attention_heads": 2},
    ),
    Shape(
        "scaled-embeddings",
        seed=2,
        vision={"window_size": 2, "qkv_bias": False, "patch_stride": [4, 2, 2, 1], "patch_prenorm": [True] * 4},
        text={"scale_embedding": True, "max_position_embeddings": 160},
    ),
)

VISION = {
    "depths": [1, 1, 2, 1],
    "embed_dim": [8, 16, 24, 32],
    "num_heads": [2, 4, 4, 4],
    "num_groups": [2, 4, 3, 4],
    "window_size": 4,
    "projection_dim": 32,
    "max_position_embeddings": 12,
}
TEXT = {
    "model_type": "bart",
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
}


@functools.cache
def tokenizer() -> Tokenizer:
    """Byte-level BPE as BART's, small, with Florence-2's own tokens and the native layout's <image> at its end."""
    built = Tokenizer(models.BPE(unk_token=None))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=ENDS, initial_alphabet=alphabet, show_progress=False)
    built.train_from_iterator([SOME_TEXT] * 4, trainer)
    built.add_special_tokens([AddedToken(token, special=True) for token in ENDS])
    built.add_tokens([AddedToken(token, normalized=False) for token in [*FLORENCE_TOKENS, "<image>"]])
    return built


def random_model(shape: Shape) -> Florence2ForConditionalGeneration:
    """A model whose every weight matters: norms and biases are random too, and a few tokens are likely."""
    vocabulary = tokenizer().get_vocab_size()
    config = Florence2Config(
        vision_config=VISION | shape.vision,
        text_config=TEXT | {"vocab_size": vocabulary + 7} | shape.text,
        image_token_id=tokenizer().token_to_id("<image>"),
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(shape.seed)
    model = Florence2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.normal_(1.0, 0.2)
            else:
                parameter.normal_(0.0, 0.15 if parameter.dim() > 1 else 0.1)
        shared = model.model.language_model.shared.weight
        shared.mul_(0.2)
        shared[LIVELY] = torch.randn(len(LIVELY), shared.shape[1]) * 0.5
        shared[EOS] *= 3
        # Else a token's own embedding, tied to the head, makes it its own likeliest successor, whatever the picture.
        for name, parameter in model.named_parameters():
            if "decoder.embed_positions" in name:
                parameter.mul_(4 * (shared.shape[1] ** 0.5 if config.text_config.scale_embedding else 1))
            elif "encoder_attn.out_proj.weight" in name:
                parameter.mul_(4)
    model.tie_weights()
    return model


def write_checkpoint(directory: Path, shape: Shape) -> Florence2ForConditionalGeneration:
    model = random_model(shape)
    model.save_pretrained(directory)
    size = {"height": shape.side_px, "width": shape.side_px}
    (directory / "preprocessor_config.json").write_text(json.dumps({"size": size, "resample": 3}), encoding="utf-8")
    tokenizer().save(str(directory / "tokenizer.json"))
    return model


def picture(seed: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    """Coarse coloured noise: every seed looks different to a random model."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def oracle_inputs(florence: Florence, requests: list[tuple[Image.Image, str]]) -> dict[str, Tensor]:
    """What transformers' model is given: image tokens, then the prompt, padded on the right and masked."""
    preprocess: PreprocessConfig = florence.config.preprocess
    assert florence.config.image_token_id is not None, "the oracle reads the native layout, which names it"
    image = [florence.config.image_token_id] * florence.image_tokens
    rows = [image + florence.tokenizer.encode(prompt) for _, prompt in requests]
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [1] * (longest - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        "pixel_values": torch.stack([to_pixels(image, preprocess) for image, _ in requests]),
    }


@dataclass(frozen=True)
class Search:
    """Options in the oracle's words; the names are those of `Florence.generate` as well."""

    num_beams: int = 3
    max_new_tokens: int = 40
    no_repeat_ngram_size: int = 3
    length_penalty: float = 1.0
    early_stopping: bool = True


def oracle_generate(
    model: Florence2ForConditionalGeneration,
    florence: Florence,
    requests: list[tuple[Image.Image, str]],
    search: Search,
    forced: bool = True,
) -> list[list[int]]:
    """Token ids without the start token, up to and including the first end token, as Generation.token_ids has them."""
    values = asdict(search)
    if search.num_beams == 1:  # greedy: transformers warns about options of beam search
        values = {k: v for k, v in values.items() if k not in ("length_penalty", "early_stopping")}
    config = GenerationConfig(
        do_sample=False,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=EOS,
        decoder_start_token_id=2,
        forced_bos_token_id=0 if forced else None,
        forced_eos_token_id=EOS if forced else None,
        **values,
    )
    model.generation_config = config
    with torch.no_grad():
        out = model.generate(generation_config=config, **cast(Any, oracle_inputs(florence, requests)))
    rows: list[list[int]] = out[:, 1:].tolist()
    return [row[: row.index(EOS) + 1] if EOS in row else [i for i in row if i != 1] for row in rows]
