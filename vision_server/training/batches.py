"""Drawn scenes as training batches, drawn in a worker process while the model learns from the last ones."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from vision_server.engine.config import BOS, EOS, PAD, PreprocessConfig
from vision_server.engine.preprocess import to_pixels
from vision_server.training.cells import IGNORED, cells
from vision_server.training.drawing import draw
from vision_server.training.questions import ask
from vision_server.training.scenes import TRAIN_SEEDS, Scene, scene

IGNORE = IGNORED
LONG_SHARE = 0.65  # of the steps that ask the prompts with long answers
UNSIGNED_SHARE = 0.5  # of the scenes without a sign that are learned from: reading is what takes longest
# How often a prompt is chosen, against the others of its group. The prompts of a step share the length of the longest
# answer, so those with long answers keep to themselves.
SHORT = {
    "<CAPTION>": 1.5,
    "<OCR>": 2.0,
    "<OCR_WITH_REGION>": 2.0,
    "<OPEN_VOCABULARY_DETECTION>": 2.0,
    "<REGION_TO_CATEGORY>": 0.5,
    "<REGION_TO_DESCRIPTION>": 1.0,
    "<REGION_TO_OCR>": 1.5,
    "<VQA>": 2.0,
    "<DocVQA>": 2.0,
    "<DESCRIPTION>": 1.0,
}
LONG = {
    "<DETAILED_CAPTION>": 2.0,
    "<MORE_DETAILED_CAPTION>": 1.5,
    "<OD>": 1.0,
    "<DENSE_REGION_CAPTION>": 1.0,
    "<REGION_PROPOSAL>": 1.0,
    "<GENERATE_TAGS>": 0.5,
    "<GENERATE_PROMPT>": 0.3,
    "<MIXED_CAPTION>": 0.5,
    "<MIX_CAPTION>": 0.5,
    "<MIXED_CAPTION_PLUS>": 0.7,
    "<MIX_CAPTION_PLUS>": 0.7,
    "<ANALYZE>": 1.0,
    "<CAPTION_TO_PHRASE_GROUNDING>": 2.0,
    "<REFERRING_EXPRESSION_SEGMENTATION>": 5.0,
    "<REGION_TO_SEGMENTATION>": 3.0,
}


@dataclass
class Batch:
    """P pictures and, for each, the same T prompts, padded: rows are picture-major, P * T of them.

    `answers` (P*T, L) are `<s> text </s>` with IGNORE behind; `prompt_mask` is true where a prompt token is real. The
    cells are per picture: kinds, colours (P, G, G), letters (P, 2G, 2G), boxes (P, G, G, 4), outlines (P, G, G, 16, 2)
    of which `points` (P, G, G) are real, texts (P, 7), words (P, G, G, 5), backgrounds (P,).
    """

    pixels: Tensor
    prompts: Tensor
    prompt_mask: Tensor
    answers: Tensor
    kinds: Tensor
    colours: Tensor
    letters: Tensor
    boxes: Tensor
    outlines: Tensor
    points: Tensor
    texts: Tensor
    words: Tensor
    backgrounds: Tensor


class SceneBatches(IterableDataset[Batch]):
    """An endless stream of batches; `seed` decides all of it, so that a resumed run sees other scenes than before."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        preprocess: PreprocessConfig,
        grid: int,
        pictures: int,
        prompts: int,
        seed: int,
    ) -> None:
        self.tokenizer, self.preprocess, self.grid = tokenizer, preprocess, grid
        self.pictures, self.prompts, self.seed = pictures, prompts, seed

    def __iter__(self) -> Iterator[Batch]:
        rng = random.Random(self.seed)
        while True:
            tokens = chosen(rng, LONG if rng.random() < LONG_SHARE else SHORT, self.prompts)
            scenes = [_scene(rng) for _ in range(self.pictures)]
            asked = [ask(one, token) for one in scenes for token in tokens]
            sizes = [one.size_px for one in scenes for _ in tokens]
            prompts = _padded(
                [self._ids(question.sentence(side)) for question, side in zip(asked, sizes, strict=True)], PAD
            )
            near = [cells(one, self.grid) for one in scenes]
            yield Batch(
                pixels=torch.stack([to_pixels(draw(one), self.preprocess) for one in scenes]),
                prompts=prompts,
                prompt_mask=prompts != PAD,
                answers=_padded([self._ids(question.truth) for question in asked], IGNORE),
                kinds=torch.from_numpy(np.stack([one.kind for one in near])),
                colours=torch.from_numpy(np.stack([one.colour for one in near])),
                letters=torch.from_numpy(np.stack([cells(one, 2 * self.grid).character for one in scenes])),
                boxes=torch.from_numpy(np.stack([one.box for one in near])),
                outlines=torch.from_numpy(np.stack([one.outline for one in near])),
                points=torch.from_numpy(np.stack([one.points for one in near])),
                texts=torch.from_numpy(np.stack([one.text for one in near])),
                words=torch.from_numpy(np.stack([one.words for one in near])),
                backgrounds=torch.tensor([one.background for one in near]),
            )

    def _ids(self, text: str) -> list[int]:
        return [BOS, *self.tokenizer.encode(text, add_special_tokens=False).ids, EOS]


def chosen(rng: random.Random, weights: Mapping[str, float], count: int) -> list[str]:
    """`count` different tokens (Efraimidis and Spirakis, 2006)."""
    return sorted(weights, key=lambda token: rng.random() ** (1 / weights[token]))[-count:]


def _scene(rng: random.Random) -> Scene:
    while True:
        one = scene(rng.choice(TRAIN_SEEDS))
        if one.sign is not None or rng.random() < UNSIGNED_SHARE:
            return one


def _padded(rows: list[list[int]], value: int) -> Tensor:
    """Rows of one length, a multiple of 8: a CPU makes its kernels anew for every shape, so there should be few."""
    longest = -(-max(map(len, rows)) // 8) * 8
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def stream(batches: SceneBatches) -> Iterator[Batch]:
    return iter(DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=8))
