"""BART's encoder and decoder: image features and prompt -> states, states and tokens -> logits.

After "BART" (Lewis et al. 2019): learned positions that start at row 2 of their table, layer norm after each residual
sum. The decoder runs in two ways that agree: `forward` over whole sequences (training, parity) and `step`, one token a
row over the caches of `engine.cache`. Query, key and value are one matrix each layer, so a step reads it once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vision_server.engine.cache import CacheStep
from vision_server.engine.config import TextConfig
from vision_server.engine.linear import GeluLinear

Attend = Callable[[Tensor], Tensor]  # queries (B, heads, T, d) -> what they find, of the same shape

POSITION_OFFSET = 2  # BART's position tables keep two rows that are never used


def split_heads(x_BSE: Tensor, parts: int, heads: int) -> Tensor:
    """(B, S, parts*heads*d) -> (parts, B, heads, S, d)"""
    return rearrange(x_BSE, "b s (parts h d) -> parts b h s d", parts=parts, h=heads)


def merge_heads(x_BHSD: Tensor) -> Tensor:
    return rearrange(x_BHSD, "b h s d -> b s (h d)")


class SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x_BSD: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """`mask` (B, 1, 1, S) is true where a key may be read."""
        q, k, v = split_heads(self.qkv(x_BSD), 3, self.heads)
        y: Tensor = self.out_proj(merge_heads(F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)))
        return y


class CrossAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, dim * 2)
        self.out_proj = nn.Linear(dim, dim)

    def keys_values(self, states_BSD: Tensor) -> Tensor:
        """(2, B, heads, S, d); computed once a request and read at every step by all its beams."""
        return split_heads(self.kv(states_BSD), 2, self.heads)

    def forward(self, x_BTD: Tensor, attend: Attend) -> Tensor:
        q = split_heads(self.q_proj(x_BTD), 1, self.heads)[0]
        y: Tensor = self.out_proj(merge_heads(attend(q)))
        return y


class EncoderLayer(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, heads)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = GeluLinear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(self, x_BSD: Tensor, mask: Tensor | None) -> Tensor:
        x_BSD = self.self_attn_layer_norm(x_BSD + self.self_attn(x_BSD, mask))
        x_BSD = self.final_layer_norm(x_BSD + self.fc2(self.fc1(x_BSD)))
        return x_BSD


class DecoderLayer(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, heads)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.encoder_attn = CrossAttention(dim, heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = GeluLinear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(self, x_BTD: Tensor, states_BSD: Tensor, mask: Tensor | None) -> Tensor:
        keys, values = self.encoder_attn.keys_values(states_BSD)
        attended = self.self_attn(x_BTD, causal=True)
        return self.finish(x_BTD, attended, lambda q: F.scaled_dot_product_attention(q, keys, values, mask))

    def step(self, x_RWD: Tensor, cache: CacheStep, layer: int) -> Tensor:
        """One token a beam: R requests of W beams; the beams are the query positions of one attention call."""
        qkv = split_heads(self.self_attn.qkv(x_RWD), 3, self.self_attn.heads)
        attended = self.self_attn.out_proj(merge_heads(cache.attend(layer, qkv[0], qkv[1:])))
        return self.finish(x_RWD, attended, partial(cache.attend_sources, layer))

    def finish(self, x: Tensor, attended: Tensor, attend_sources: Attend) -> Tensor:
        x = self.self_attn_layer_norm(x + attended)
        x = self.encoder_attn_layer_norm(x + self.encoder_attn(x, attend_sources))
        x = self.final_layer_norm(x + self.fc2(self.fc1(x)))
        return x


class Stack(nn.Module):
    """What encoder and decoder share: learned positions and a norm before their layers."""

    def __init__(self, config: TextConfig, layers: list[nn.Module]) -> None:
        super().__init__()
        self.embed_positions = nn.Embedding(config.max_position_embeddings + POSITION_OFFSET, config.d_model)
        self.layernorm_embedding = nn.LayerNorm(config.d_model)
        self.layers = nn.ModuleList(layers)

    def placed(self, embeddings_BSD: Tensor) -> Tensor:
        """The embeddings of whole sequences at positions 0, 1, ..."""
        length = embeddings_BSD.shape[1]
        positions = self.embed_positions.weight[POSITION_OFFSET : POSITION_OFFSET + length]
        y: Tensor = self.layernorm_embedding(embeddings_BSD + positions)
        return y


def key_mask(mask_BS: Tensor | None) -> Tensor | None:
    """(B, S), true where a position is real -> the same for every head and query."""
    return None if mask_BS is None else mask_BS[:, None, None, :]


class Encoder(Stack):
    """embeddings (B, S, D) and mask (B, S), true where a position is real -> states (B, S, D)"""

    def __init__(self, config: TextConfig) -> None:
        shape = (config.d_model, config.encoder_attention_heads, config.encoder_ffn_dim)
        super().__init__(config, [EncoderLayer(*shape) for _ in range(config.encoder_layers)])

    def forward(self, embeddings_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        x_BSD, mask = self.placed(embeddings_BSD), key_mask(mask_BS)
        for layer in self.layers:
            x_BSD = layer(x_BSD, mask)
        return x_BSD


class Decoder(Stack):
    def __init__(self, config: TextConfig) -> None:
        shape = (config.d_model, config.decoder_attention_heads, config.decoder_ffn_dim)
        super().__init__(config, [DecoderLayer(*shape) for _ in range(config.decoder_layers)])

    def forward(self, embeddings_BTD: Tensor, states_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """Whole sequences, each token seeing those before it: (B, T, D) -> (B, T, D)"""
        x_BTD, mask = self.placed(embeddings_BTD), key_mask(mask_BS)
        for layer in self.layers:
            x_BTD = layer(x_BTD, states_BSD, mask)
        return x_BTD

    def step(self, embeddings_RWD: Tensor, cache: CacheStep) -> Tensor:
        """The next token of every beam, each request at its own position: (R, W, D) -> (R, W, D)"""
        positions_RD = self.embed_positions(cache.positions_R + POSITION_OFFSET)
        x_RWD: Tensor = self.layernorm_embedding(embeddings_RWD + positions_RD[:, None])
        for index, layer in enumerate(self.layers):
            x_RWD = layer.step(x_RWD, cache, index)  # type: ignore[operator]
        return x_RWD


class TextModel(nn.Module):
    """Shared token embeddings, encoder, decoder and the output head (its own tensor when the checkpoint stores one)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embed_scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def embed(self, ids: Tensor) -> Tensor:
        """ids (...) -> (..., D)"""
        y: Tensor = self.shared(ids)
        return y * self.embed_scale if self.embed_scale != 1.0 else y

    def encode(self, features_BND: Tensor, prompt_ids_BP: Tensor, prompt_mask_BP: Tensor | None = None) -> Tensor:
        """Image features, then the prompt -> states (B, N+P, D). Padded prompts need their mask (true where real)."""
        embeddings_BSD = torch.cat([features_BND, self.embed(prompt_ids_BP)], dim=1)
        if prompt_mask_BP is None:
            return self.encoder(embeddings_BSD)  # type: ignore[no-any-return]
        mask_BS = F.pad(prompt_mask_BP, (features_BND.shape[1], 0), value=True)
        return self.encoder(embeddings_BSD, mask_BS)  # type: ignore[no-any-return]

    def decode(self, ids_BT: Tensor, states_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of whole sequences (teacher forcing)."""
        return self.lm_head(self.decoder(self.embed(ids_BT), states_BSD, mask_BS))  # type: ignore[no-any-return]

    def step(self, ids_RW: Tensor, cache: CacheStep) -> Tensor:
        """Logits (R, W, V) of the token after `ids_RW`. Softmax adds up in float32 in every dtype: the fused kernels'
        accumulators are float (`accum_t` in ATen's mem_eff_attention/kernel_forward.h), and the plain one computes in
        float32 unless `allow_fp16_bf16_reduction_math_sdp` is set (torch.backends.cuda)."""
        return self.lm_head(self.decoder.step(self.embed(ids_RW), cache))  # type: ignore[no-any-return]
