"""DaViT and the projector: pixels -> the image features that open the encoder's input.

After "DaViT: Dual Attention Vision Transformers" (Ding et al. 2022) as Florence-2 uses it. Features stay channels-last
(B, H, W, C) from the first convolution to the last block, so that every norm and linear reads contiguous memory; a
convolution sees the same memory as a channels_last (B, C, H, W) view. Module names are those of the native checkpoint.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vision_server.engine.config import VisionConfig
from vision_server.engine.linear import GeluLinear


def convolve(conv: nn.Conv2d, x_BHWC: Tensor) -> Tensor:
    y_BCHW: Tensor = conv(x_BHWC.permute(0, 3, 1, 2))
    return y_BCHW.permute(0, 2, 3, 1)


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = GeluLinear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.fc1(x))
        return y


class WindowAttention(nn.Module):
    """Self-attention inside non-overlapping squares of `window` x `window` positions, zero-padded to whole squares."""

    def __init__(self, dim: int, heads: int, window: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        height, width, w = x_BHWC.shape[1], x_BHWC.shape[2], self.window
        bottom, right = -height % w, -width % w
        if bottom or right:
            x_BHWC = F.pad(x_BHWC, (0, 0, 0, right, 0, bottom))
        qkv = rearrange(
            self.qkv(x_BHWC), "b (y i) (x j) (three h d) -> three (b y x) h (i j) d", i=w, j=w, three=3, h=self.heads
        )
        out = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        rows, columns = x_BHWC.shape[1] // w, x_BHWC.shape[2] // w
        out = rearrange(out, "(b y x) h (i j) d -> b (y i) (x j) (h d)", y=rows, x=columns, i=w)
        y: Tensor = self.proj(out[:, :height, :width])
        return y


class ChannelAttention(nn.Module):
    """Attention between the channels of a group; the positions are what each channel is described by."""

    def __init__(self, dim: int, groups: int, qkv_bias: bool) -> None:
        super().__init__()
        self.groups = groups
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        height, width = x_BHWC.shape[1], x_BHWC.shape[2]
        qkv = rearrange(self.qkv(x_BHWC), "b y x (three g c) -> three (b g) (y x) c", three=3, g=self.groups)
        # Two products over long columns, which read q, k and v where they lie; `scaled_dot_product_attention` takes
        # them for heads of thousands of dimensions and wants each turned around. The scale comes before rounding.
        scale = (height * width) ** -0.5
        scores = torch.baddbmm(qkv.new_empty(1), qkv[0].transpose(1, 2), qkv[1], beta=0, alpha=scale)
        out = qkv[2] @ scores.softmax(dim=-1).transpose(1, 2)
        y: Tensor = self.proj(rearrange(out, "(b g) (y x) c -> b y x (g c)", g=self.groups, y=height))
        return y


class Block(nn.Module):
    """Depthwise convolution, attention, depthwise convolution, MLP; each added to what came in."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim)
        self.conv2 = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = Mlp(dim, hidden)

    def mix(self, x_BHWC: Tensor, attention: nn.Module) -> Tensor:
        x_BHWC = x_BHWC + convolve(self.conv1, x_BHWC)
        x_BHWC = x_BHWC + attention(self.norm1(x_BHWC))
        x_BHWC = x_BHWC + convolve(self.conv2, x_BHWC)
        x_BHWC = x_BHWC + self.ffn(self.norm2(x_BHWC))
        return x_BHWC


class SpatialBlock(Block):
    def __init__(self, config: VisionConfig, stage: int) -> None:
        dim = config.embed_dim[stage]
        super().__init__(dim, int(dim * config.mlp_ratio))
        self.window_attn = WindowAttention(dim, config.num_heads[stage], config.window_size, config.qkv_bias)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return self.mix(x_BHWC, self.window_attn)


class ChannelBlock(Block):
    def __init__(self, config: VisionConfig, stage: int) -> None:
        dim = config.embed_dim[stage]
        super().__init__(dim, int(dim * config.mlp_ratio))
        self.channel_attn = ChannelAttention(dim, config.num_groups[stage], config.qkv_bias)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return self.mix(x_BHWC, self.channel_attn)


class DualBlock(nn.Module):
    def __init__(self, config: VisionConfig, stage: int) -> None:
        super().__init__()
        self.spatial_block = SpatialBlock(config, stage)
        self.channel_block = ChannelBlock(config, stage)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        y: Tensor = self.channel_block(self.spatial_block(x_BHWC))
        return y


class PatchEmbed(nn.Module):
    """A strided convolution that opens a stage, normed before (`prenorm`) or after."""

    def __init__(self, config: VisionConfig, stage: int) -> None:
        super().__init__()
        inner = config.in_channels if stage == 0 else config.embed_dim[stage - 1]
        outer = config.embed_dim[stage]
        self.prenorm = config.patch_prenorm[stage]
        self.conv = nn.Conv2d(
            inner, outer, config.patch_size[stage], config.patch_stride[stage], config.patch_padding[stage]
        )
        self.norm = nn.LayerNorm(inner if self.prenorm else outer)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        if self.prenorm:
            return convolve(self.conv, self.norm(x_BHWC))
        y: Tensor = self.norm(convolve(self.conv, x_BHWC))
        return y


class VisionTower(nn.Module):
    """pixels (B, 3, H, W) -> features (B, h, w, C), the picture shrunk by the product of the strides."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        stages = range(len(config.embed_dim))
        self.convs = nn.ModuleList(PatchEmbed(config, stage) for stage in stages)
        self.blocks = nn.ModuleList(
            nn.ModuleList(DualBlock(config, stage) for _ in range(config.depths[stage])) for stage in stages
        )

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        x_BHWC = pixels_BCHW.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        for conv, blocks in zip(self.convs, self.blocks, strict=True):
            x_BHWC = conv(x_BHWC)
            for block in blocks:  # type: ignore[attr-defined]
                x_BHWC = block(x_BHWC)
        return x_BHWC


class PositionEmbed2d(nn.Module):
    """Learned absolute positions: the column's half first, the row's half second."""

    def __init__(self, positions: int, dim: int) -> None:
        super().__init__()
        self.row_embeddings = nn.Embedding(positions, dim // 2)
        self.column_embeddings = nn.Embedding(positions, dim - dim // 2)

    def forward(self, height: int, width: int) -> Tensor:
        columns = self.column_embeddings.weight[:width].expand(height, -1, -1)
        rows = self.row_embeddings.weight[:height, None].expand(-1, width, -1)
        return torch.cat([columns, rows], dim=-1)


class TemporalEmbed(nn.Module):
    """Stored cosine positions of video frames; a picture is frame 0."""

    pos_idx_to_embed: Tensor

    def __init__(self, frames: int, dim: int) -> None:
        super().__init__()
        # Computed on the CPU although the rest may be built on the meta device: for its formulas there torch would
        # import its compiler, which takes a second.
        with torch.device("cpu"):
            frequency = torch.exp(torch.arange(dim // 2) * -(torch.log(torch.tensor(10000.0)) / (dim // 2)))
            angle = torch.arange(frames)[:, None] * frequency
        self.register_buffer("pos_idx_to_embed", torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1))


class Projector(nn.Module):
    """features (B, h, w, C) -> (B, 1 + h*w, D): the spatial average first, then every position."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        dim = config.embed_dim[-1]
        self.image_projection = nn.Linear(dim, config.projection_dim, bias=False)
        self.image_proj_norm = nn.LayerNorm(config.projection_dim)
        self.image_position_embed = PositionEmbed2d(config.max_position_embeddings, dim)
        self.visual_temporal_embed = TemporalEmbed(config.max_temporal_embeddings, dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = x_BHWC + self.image_position_embed(x_BHWC.shape[1], x_BHWC.shape[2])
        x_BNC = (x_BHWC + self.visual_temporal_embed.pos_idx_to_embed[0]).flatten(1, 2)
        x_BNC = torch.cat([x_BNC.mean(dim=1, keepdim=True), x_BNC], dim=1)
        y: Tensor = self.image_proj_norm(self.image_projection(x_BNC))
        return y
