"""Random checkpoints of the published sizes in the native layout, with the processor that transformers reads, and the
pictures to ask them about. Not a benchmark.

An answer always has as many tokens as are asked for: the last norm's bias speaks against the end token's embedding. A
few tokens are far likelier than the rest, so that scores lie too far apart for rounding to choose between them, and
what is said depends on the picture.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer
from transformers import (
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
)

from tests.tiny import EOS, TEXT, VISION, picture
from vision_server.engine.preprocess import FLORENCE_TOKENS

DATA = Path(__file__).parents[1] / "data"
LIKELY = range(1000, 1064)  # ids of the tokens that answers are made of
LIKELY_LOGIT = 6.0  # standard deviation of their logits; those of all others stay below one
PROMPT = "What does the image describe?"
SECOND_PROMPT = "Locate the objects with category name in the image."
_FROM_TEXT = (
    *("d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads"),
    *("encoder_ffn_dim", "decoder_ffn_dim", "max_position_embeddings", "forced_bos_token_id", "forced_eos_token_id"),
)
_FROM_VISION = (
    *("depths", "num_heads", "num_groups", "window_size", "projection_dim"),
    *("patch_size", "patch_stride", "patch_padding", "patch_prenorm"),
)


@dataclass(frozen=True)
class Size:
    """The two halves of a native config.json, and the side of the square picture that the model looks at."""

    name: str
    side_px: int
    image_tokens: int
    vision: dict[str, Any]
    text: dict[str, Any]


TINY = Size("tiny", 96, 10, VISION | {"window_size": 5}, TEXT)  # for tests of the benchmarks


def published(name: str) -> Size:
    """`base` or `large`, as their own config.json describes them."""
    raw = json.loads((DATA / f"config.{name}.json").read_text(encoding="utf-8"))
    vision, text = raw["vision_config"], raw["text_config"]
    return Size(
        name,
        768,
        577,
        {key: vision[key] for key in _FROM_VISION} | {"embed_dim": vision["dim_embed"]},
        {key: text[key] for key in _FROM_TEXT} | {"model_type": "bart", "decoder_start_token_id": EOS},
    )


def write_checkpoint(directory: Path, size: Size, seed: int = 0) -> None:
    """A folder that `Florence.load`, `from_pretrained` and the processor of transformers read; weights in float16."""
    words = _tokenizer()
    model = random_model(size, words, seed)
    model.half().save_pretrained(directory)
    side = {"height": size.side_px, "width": size.side_px}
    images = CLIPImageProcessor(
        size=side,
        crop_size=side,
        do_center_crop=False,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    images.image_seq_length = size.image_tokens
    fast = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        extra_special_tokens={"image_token": "<image>"},
    )
    Florence2Processor(images, fast).save_pretrained(directory)


def _tokenizer() -> Tokenizer:
    """BART's, with Florence-2's own tokens and the native layout's <image> at its end."""
    words = Tokenizer.from_str(gzip.decompress((DATA / "tokenizer.json.gz").read_bytes()).decode("utf-8"))
    words.add_special_tokens([AddedToken(token, normalized=False) for token in [*FLORENCE_TOKENS, "<image>"]])
    return words


def random_model(size: Size, words: Tokenizer, seed: int) -> Florence2ForConditionalGeneration:
    """Every weight random and of a size that keeps what flows through it as large as it came."""
    config = Florence2Config(
        vision_config=size.vision,
        text_config={"pad_token_id": 1, "eos_token_id": EOS, **size.text, "vocab_size": words.get_vocab_size()},
        image_token_id=words.token_to_id("<image>"),
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=EOS,
    )
    model = Florence2ForConditionalGeneration(config).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.normal_(1.0, 0.1)
            elif parameter.dim() > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(0.0, 0.1)
        text = model.model.language_model
        likely = LIKELY_LOGIT * size.text["d_model"] ** -0.5
        text.shared.weight.mul_(0.5)
        text.shared.weight[LIKELY.start : LIKELY.stop].normal_(0.0, likely)
        text.decoder.embed_positions.weight.normal_(0.0, 2 * likely)
        for layer in text.decoder.layers:
            layer.encoder_attn.q_proj.weight.mul_(3)  # looks at some places more than at others
            layer.encoder_attn.out_proj.weight.mul_(4)
        bias = text.decoder.layers[-1].final_layer_norm.bias
        bias.normal_(0.0, 0.3)
        text.shared.weight[EOS] = -20 * bias / bias.square().sum()
    model.tie_weights()
    return model


def questions(size: Size, first: int, count: int, prompt: str = PROMPT) -> list[tuple[Image.Image, str]]:
    """`count` requests about pictures number `first` and on, of the size the model looks at; no two are alike."""
    return [(picture(number, (size.side_px, size.side_px)), prompt) for number in range(first, first + count)]
