"""What the embedded checkpoint learns from: the answers' tokens, and truths per cell that teach the vision tower.

Captions alone leave a small model at the language prior for a long time. The cells say directly what is where, so the
tower is worth attending to before the decoder has learned to look.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_server.engine.config import DECODER_START
from vision_server.engine.network import Network
from vision_server.tasks.regions import BINS
from vision_server.training.batches import IGNORE, Batch
from vision_server.training.cells import LETTERS, LONGEST_TEXT, OUTLINE_POINTS
from vision_server.training.pictograms import KINDS
from vision_server.training.scenes import BACKGROUNDS, COLOURS

SMOOTH_BINS = 6.0  # standard deviation of a location's soft target
OUTLINE_CELLS = 96


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


class CellHeads(nn.Module):
    """Linear readers of the tower's last features (P, G, G, C); used in training only, never saved with the model.

    Three read the projected features, as the decoder does, and speak in the very embeddings of its tokens, so that all
    it has to learn is to copy them: `corner` a box and `outline` a polygon in the location tokens, `spelling` in every
    cell of a sign the whole text on it.
    """

    def __init__(self, dim: int, d_model: int) -> None:
        super().__init__()
        self.kind = nn.Linear(dim, len(KINDS) + 2)
        self.colour = nn.Linear(dim, len(COLOURS) + 1)
        self.letter = nn.Linear(dim, 4 * (len(LETTERS) + 1))
        self.box = nn.Linear(dim, 4)
        self.background = nn.Linear(dim, len(BACKGROUNDS))
        self.corner = nn.Linear(d_model, 4 * d_model)
        self.outline = nn.Linear(d_model, 2 * OUTLINE_POINTS * d_model)
        self.spelling = nn.Linear(d_model, (LONGEST_TEXT + 1) * d_model)
        self.location = LocationLoss()

    def forward(
        self, features_PGGC: Tensor, projected_PND: Tensor, locations_LD: Tensor, letters_AD: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        """`projected_PND` are the image features, the average first; `locations_LD` the location tokens' embeddings;
        `letters_AD` those of A to Z and of the end.
        """
        owned = batch.kinds > 0
        letters = self.letter(features_PGGC).unflatten(-1, (2, 2, -1))  # a cell's four quarters, row by row
        letters = letters.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        # most quarters hold no letter; the few that do must not drown
        weight = torch.ones(len(LETTERS) + 1, device=features_PGGC.device)
        weight[0] = 0.05
        guessed = self.box(features_PGGC).float()[owned]
        cells_PND = projected_PND[:, 1:]
        corners = self.corner(cells_PND[owned.flatten(1)]).unflatten(-1, (4, -1)) @ locations_LD.T
        bins = (batch.boxes[owned] * BINS).long().clamp(0, BINS - 1)
        losses = {
            "kind": F.cross_entropy(self.kind(features_PGGC).float().flatten(0, 2), batch.kinds.flatten()),
            "colour": F.cross_entropy(self.colour(features_PGGC).float()[owned], batch.colours[owned]),
            "letter": F.cross_entropy(letters.float().flatten(0, 2), batch.letters.flatten(), weight),
            "box": 4 * F.smooth_l1_loss(guessed, batch.boxes[owned], beta=0.05),
            "corner": self.location(corners.float().log_softmax(-1), bins),
            "outline": self._outlines(
                cells_PND[owned.flatten(1)], locations_LD, batch.outlines[owned], batch.points[owned]
            ),
            "background": F.cross_entropy(self.background(features_PGGC.mean((1, 2))).float(), batch.backgrounds),
        }
        sign = batch.kinds == len(KINDS) + 1
        if sign.any():  # pictures drawn by chance may all lack one
            spelt = self.spelling(cells_PND[sign.flatten(1)]).unflatten(-1, (LONGEST_TEXT + 1, -1)) @ letters_AD.T
            texts = batch.texts[sign.nonzero()[:, 0]]
            losses["spelling"] = F.cross_entropy(spelt.float().flatten(0, 1), texts.flatten(), ignore_index=IGNORE)
        return losses

    def _outlines(self, cells_KD: Tensor, locations_LD: Tensor, outlines_KPX: Tensor, points_K: Tensor) -> Tensor:
        """Of OUTLINE_CELLS cells, chosen by chance: all would take longer than the answers."""
        some = torch.randperm(len(cells_KD), device=cells_KD.device)[:OUTLINE_CELLS]
        said = self.outline(cells_KD[some]).unflatten(-1, (OUTLINE_POINTS, 2, -1))
        real = torch.arange(OUTLINE_POINTS, device=said.device) < points_K[some, None]
        bins = (outlines_KPX[some][real] * BINS).long().clamp(0, BINS - 1)
        loss: Tensor = self.location((said[real] @ locations_LD.T).float().log_softmax(-1), bins)
        return loss


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
