"""Truths per cell that teach the vision tower, in training only.

Captions alone leave a small model at the language prior for a long time. The cells say directly what is where, so the
tower is worth attending to before the decoder has learned to look.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from vision_server.engine.config import EOS
from vision_server.tasks.regions import BINS
from vision_server.training.batches import IGNORE, Batch
from vision_server.training.cells import COLUMNS, LETTERS, LONGEST_TEXT, ROWS, SIZES
from vision_server.training.losses import LocationLoss
from vision_server.training.pictograms import KINDS
from vision_server.training.scenes import BACKGROUNDS, COLOURS
from vision_server.training.truth import OUTLINE_POINTS

OUTLINE_CELLS = 96


class CellHeads(nn.Module):
    """Linear readers of the tower's last features (P, G, G, C); used in training only, never saved with the model.

    The others read the projected features, as the decoder does, and speak in the very embeddings of its tokens, so that
    all it has to learn is to find and to copy them: `corner` a box and `outline` a polygon in the location tokens,
    `spelling` in every cell of a sign the whole text on it, `words` what the thing is called and where it is.
    """

    def __init__(self, dim: int, d_model: int, tokenizer: Tokenizer) -> None:
        super().__init__()
        vocabulary = tokenizer.get_vocab()
        self.first_location = vocabulary["<loc_0>"]
        self.letters = [*(vocabulary[letter] for letter in LETTERS), EOS]
        self.names = [_ids(words, vocabulary) for words in _NAMES]
        self.kind = nn.Linear(dim, len(KINDS) + 2)
        self.colour = nn.Linear(dim, len(COLOURS) + 1)
        self.letter = nn.Linear(dim, 4 * (len(LETTERS) + 1))
        self.box = nn.Linear(dim, 4)
        self.background = nn.Linear(dim, len(BACKGROUNDS))
        self.corner = nn.Linear(d_model, 4 * d_model)
        self.outline = nn.Linear(d_model, 2 * OUTLINE_POINTS * d_model)
        self.spelling = nn.Linear(d_model, (LONGEST_TEXT + 1) * d_model)
        self.words = nn.Linear(d_model, len(_NAMES) * d_model)
        self.location = LocationLoss()

    def forward(
        self, features_PGGC: Tensor, projected_PND: Tensor, shared_VD: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        """`projected_PND` are the image features, the average first; `shared_VD` the tokens' embeddings."""
        locations_LD = shared_VD[self.first_location : self.first_location + BINS]
        letters_AD = shared_VD[self.letters]
        owned = batch.kinds > 0
        letters = self.letter(features_PGGC).unflatten(-1, (2, 2, -1))  # a cell's four quarters, row by row
        letters = letters.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        # most quarters hold no letter; the few that do must not drown
        weight = torch.ones(len(LETTERS) + 1, device=features_PGGC.device)
        weight[0] = 0.03
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
        losses["words_of_cells"] = self._words(cells_PND[owned.flatten(1)], shared_VD, batch.words[owned])
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

    def _words(self, cells_KD: Tensor, shared_VD: Tensor, words_KN: Tensor) -> Tensor:
        said = self.words(cells_KD).unflatten(-1, (len(_NAMES), -1))
        losses = [
            F.cross_entropy((said[:, place] @ shared_VD[ids].T).float(), words_KN[:, place], ignore_index=IGNORE)
            for place, names in enumerate(self.names)
            for ids in names
        ]
        return torch.stack(losses).mean()


# What `Cells.words` counts in.
_NAMES = ((*KINDS, "sign"), COLOURS, SIZES, COLUMNS, ROWS)


def _ids(words: Sequence[str], vocabulary: dict[str, int]) -> list[list[int]]:
    """The words' tokens within a text and, where they have others, at its beginning. KeyError if there is none."""
    within = [vocabulary[spaced] if (spaced := f"\u0120{word}") in vocabulary else vocabulary[word] for word in words]
    beginning = [vocabulary.get(word, one) for word, one in zip(words, within, strict=True)]
    return [within] if beginning == within else [within, beginning]
