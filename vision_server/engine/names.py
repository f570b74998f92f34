"""The one table of names: our tensors, the native layout's keys, and the original Microsoft layout's keys.

Native is what transformers writes since 4.56; original is what microsoft/Florence-2-* and nearly all fine-tunes hold.
Ours are the native names with shorter prefixes, and with query, key and value stacked into one matrix.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import Enum
from functools import cache


class Layout(Enum):
    NATIVE = "native"
    ORIGINAL = "original"


HEAD, SHARED = "text.lm_head.weight", "text.shared.weight"

# Our prefix -> native prefix; the head is stored apart from the rest of the text model, so it stands first.
_PREFIXES = {
    "text.lm_head.": "lm_head.",
    "text.": "model.language_model.",
    "vision_tower.": "model.vision_tower.",
    "projector.": "model.multi_modal_projector.",
}
# Our stacked matrices and what they are made of, in order.
_STACKED = {
    ".self_attn.qkv.": (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj."),
    ".encoder_attn.kv.": (".encoder_attn.k_proj.", ".encoder_attn.v_proj."),
}
# Native -> original, each applied in turn.
_ORIGINAL = [
    (re.compile(pattern), original)
    for pattern, original in (
        (r"^lm_head\.", "language_model.lm_head."),
        (r"^model\.language_model\.", "language_model.model."),
        (r"^model\.multi_modal_projector\.image_projection\.weight$", "image_projection"),
        (r"^model\.multi_modal_projector\.image_position_embed\.", "image_pos_embed."),
        (r"^model\.multi_modal_projector\.", ""),
        (r"^model\.vision_tower\.", "vision_tower."),
        (r"^(vision_tower\.convs\.\d+)\.conv\.", r"\1.proj."),
        (r"^(vision_tower\.blocks\..*)\.(conv[12])\.", r"\1.\2.fn.dw."),
        (r"^(vision_tower\..*)\.(window|channel)_attn\.", r"\1.\2_attn.fn."),
        (r"^(vision_tower\..*)\.(spatial_block)\.norm1\.", r"\1.\2.window_attn.norm."),
        (r"^(vision_tower\..*)\.(channel_block)\.norm1\.", r"\1.\2.channel_attn.norm."),
        (r"^(vision_tower\.blocks\..*)\.norm2\.", r"\1.ffn.norm."),
        (r"^(vision_tower\..*)\.ffn\.(fc[12])\.", r"\1.ffn.fn.net.\2."),
    )
]
# A parameter, not a linear layer's weight, in the original: stored the other way round.
TRANSPOSED = frozenset({"image_projection"})
# Zeros, or copies of the shared embedding.
_DROPPED = re.compile(r"(^|\.)(final_logits_bias|(en|de)coder\.embed_tokens\.weight)$")


def layout_of(keys: Collection[str]) -> Layout:
    return (
        Layout.ORIGINAL if any(key.startswith(("vision_tower.", "language_model.")) for key in keys) else Layout.NATIVE
    )


@cache
def keys_of(name: str, layout: Layout) -> tuple[str, ...]:
    """The checkpoint's keys that make up our tensor `name`, to be stacked in order."""
    for ours, native in _PREFIXES.items():
        if name.startswith(ours):
            name = native + name.removeprefix(ours)
            break
    keys = next(([name.replace(one, part) for part in parts] for one, parts in _STACKED.items() if one in name), [name])
    return tuple(keys if layout is Layout.NATIVE else map(_original, keys))


def _original(key: str) -> str:
    for pattern, replacement in _ORIGINAL:
        key = pattern.sub(replacement, key)
    return key


def embeddings(layout: Layout) -> list[str]:
    """Where the shared embedding may stand: under its own name or, in some files, only under a copy's."""
    shared = keys_of(SHARED, layout)[0]
    stem = shared.removesuffix("shared.weight")
    return [shared, f"{stem}encoder.embed_tokens.weight", f"{stem}decoder.embed_tokens.weight"]


def is_dropped(key: str) -> bool:
    """Whether a checkpoint may hold `key` without our needing it."""
    return _DROPPED.search(key) is not None
