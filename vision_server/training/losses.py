"""What the embedded checkpoint learns from its answers, and the values it begins with. The cells are in `heads`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_server.engine.config import DECODER_START
from vision_server.engine.network import Network
from vision_server.tasks.regions import BINS
from vision_server.training.batches import IGNORE, Batch

SMOOTH_BINS = 6.0  # standard deviation of a location's soft target


class LocationLoss(nn.Module):
    """Cross-entropy of locations against soft targets: a near miss is nearly right."""

    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        bins = torch.arange(BINS, dtype=torch.float32)
        near = torch.exp(-0.5 * ((bins[:, None] - bins) / SMOOTH_BINS) ** 2)
        self.register_buffer("spread", near / near.sum(1, keepdim=True), persistent=False)

    def forward(self, log_probs: Tensor, bins: Tensor) -> Tensor:
        """`log_probs` (..., BINS), `bins` (...); the mean."""
        return -(self.spread[bins] * log_probs).sum(-1).mean()


class AnswerLoss(nn.Module):
    """Cross-entropy of the answers' tokens; a location's target is spread over its neighbours."""

    def __init__(self, first_location: int) -> None:
        super().__init__()
        self.first = first_location
        self.location = LocationLoss()

    def forward(self, network: Network, features_PND: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`features_PND` are the pictures' image features; returns the means over words and over locations."""
        per_picture = len(batch.prompts) // len(features_PND)
        features = features_PND.repeat_interleave(per_picture, 0)
        text = network.text
        states = text.encode(features, batch.prompts, batch.prompt_mask)
        mask = F.pad(batch.prompt_mask, (features.shape[1], 0), value=True)
        given = F.pad(batch.answers[:, :-1].clamp(min=0), (1, 0), value=DECODER_START)
        hidden = text.decoder(text.embed(given), states, mask)
        log_probs = text.lm_head(hidden).float().log_softmax(-1)
        real = batch.answers != IGNORE
        targets, log_probs = batch.answers[real], log_probs[real]
        bins = targets - self.first
        is_location = (bins >= 0) & (bins < BINS)
        losses = {"words": F.nll_loss(log_probs[~is_location], targets[~is_location])}
        if is_location.any():  # not every choice of prompts asks for places
            near = log_probs[is_location, self.first : self.first + BINS]
            losses["places"] = self.location(near, bins[is_location])
        return losses


def initialise(network: Network, first_location: int) -> None:
    """Starting values. The location tokens begin as a smooth curve, so that neighbours are alike from the start."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    positions = network.projector.image_position_embed
    nn.init.normal_(positions.row_embeddings.weight, std=0.5)
    nn.init.normal_(positions.column_embeddings.weight, std=0.5)
    nn.init.constant_(network.projector.image_proj_norm.weight, 0.2)
    shared = network.text.shared.weight
    with torch.no_grad():
        frequency = torch.linspace(0.25, 16, shared.shape[1] // 2)
        angle = (
            2 * torch.pi * torch.linspace(0, 1, BINS)[:, None] * frequency + torch.rand(shared.shape[1] // 2) * 6.283
        )
        curve = torch.cat([angle.sin(), angle.cos()], dim=1) * 0.02
        shared[first_location : first_location + BINS] = curve + 0.02 * torch.randn(shared.shape[1])
    network.text.lm_head.weight = shared  # tied, as the native layout has it
