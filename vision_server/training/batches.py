"""Drawn scenes as training batches, drawn in a worker process while the model learns from the last ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from vision_server.engine.config import BOS, EOS, PAD, PreprocessConfig
from vision_server.engine.preprocess import to_pixels
from vision_server.tasks import find, sentence
from vision_server.training.drawing import draw
from vision_server.training.scenes import TRAIN_SEEDS, scene
from vision_server.training.truth import cells, truth

IGNORE = -100


@dataclass
class Batch:
    """P pictures and, for each, the same T prompts, padded: rows are picture-major, P * T of them.

    `answers` (P*T, L) are `<s> text </s>` with IGNORE behind; `prompt_mask` is true where a prompt token is real. The
    cells are per picture: kinds, colours (P, G, G), letters (P, 2G, 2G), boxes (P, G, G, 4), backgrounds (P,).
    """

    pixels: Tensor
    prompts: Tensor
    prompt_mask: Tensor
    answers: Tensor
    kinds: Tensor
    colours: Tensor
    letters: Tensor
    boxes: Tensor
    backgrounds: Tensor


class SceneBatches(IterableDataset[Batch]):
    """An endless stream of batches; `seed` decides all of it, so that a resumed run sees other scenes than before."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        preprocess: PreprocessConfig,
        grid: int,
        tokens: tuple[str, ...],
        pictures: int,
        prompts: int,
        seed: int,
    ) -> None:
        self.tokenizer, self.preprocess, self.grid = tokenizer, preprocess, grid
        self.tokens, self.pictures, self.prompts, self.seed = tokens, pictures, prompts, seed

    def __iter__(self) -> Iterator[Batch]:
        rng = random.Random(self.seed)
        while True:
            tokens = rng.sample(self.tokens, self.prompts)
            prompts, prompt_mask = self._sentences(tokens)
            scenes = [scene(rng.choice(TRAIN_SEEDS)) for _ in range(self.pictures)]
            near = [cells(one, self.grid) for one in scenes]
            yield Batch(
                pixels=torch.stack([to_pixels(draw(one), self.preprocess) for one in scenes]),
                prompts=prompts.repeat(self.pictures, 1),
                prompt_mask=prompt_mask.repeat(self.pictures, 1),
                answers=_padded([self._answer(truth(one, token)) for one in scenes for token in tokens], IGNORE),
                kinds=torch.from_numpy(np.stack([one.kind for one in near])),
                colours=torch.from_numpy(np.stack([one.colour for one in near])),
                letters=torch.from_numpy(np.stack([cells(one, 2 * self.grid).character for one in scenes])),
                boxes=torch.from_numpy(np.stack([one.box for one in near])),
                backgrounds=torch.tensor([one.background for one in near]),
            )

    def _answer(self, text: str) -> list[int]:
        return [BOS, *self.tokenizer.encode(text, add_special_tokens=False).ids, EOS]

    def _sentences(self, tokens: list[str]) -> tuple[Tensor, Tensor]:
        rows = []
        for token in tokens:
            task = find(token)
            assert task is not None, token
            rows.append(self._answer(sentence(task, "", None, (1, 1))))
        prompts = _padded(rows, PAD)
        return prompts, prompts != PAD


def _padded(rows: list[list[int]], value: int) -> Tensor:
    """Rows of one length, a multiple of 8: a CPU makes its kernels anew for every shape, so there should be few."""
    longest = -(-max(map(len, rows)) // 8) * 8
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def stream(batches: SceneBatches) -> Iterator[Batch]:
    return iter(DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=8))
