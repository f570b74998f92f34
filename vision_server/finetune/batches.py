"""Examples -> tensors, the pictures decoded in threads while the model learns from the last ones.

What step n learns from depends on the seed and n alone, so a run that goes on needs no memory of what it has seen, and
one with several devices learns from the same rows as one with a larger batch.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from vision_server.dataset.examples import Example
from vision_server.dataset.pictures import read
from vision_server.engine.config import PAD, PreprocessConfig
from vision_server.engine.preprocess import PromptTokenizer, to_pixels
from vision_server.finetune.examples import by_picture
from vision_server.finetune.teacher import IGNORED

_AHEAD = 3  # batches that are made before they are asked for


@dataclass(frozen=True)
class Batch:
    """P pictures, of which each is asked about in one or more of R rows; see `Teacher.forward`."""

    pixels_PCHW: Tensor
    picture_of_R: Tensor
    prompts_RT: Tensor
    answers_RL: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    @property
    def labels(self) -> int:
        """How many tokens are to be said."""
        return int((self.answers_RL != IGNORED).sum())


class Order:
    """An endless row of places, pass after pass through all of them, each pass in another order.

    What is asked of one picture stays together, so that a batch looks at it once.
    """

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        self._groups, self._count, self._seed = by_picture(examples), len(examples), seed
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> list[int]:
        rng = random.Random(f"{self._seed} {epoch}")
        groups = [rng.sample(group, len(group)) for group in self._groups]
        rng.shuffle(groups)
        return [place for group in groups for place in group]

    def places(self, first: int, count: int) -> list[int]:
        return [self._epoch(at // self._count)[at % self._count] for at in range(first, first + count)]


class Maker:
    """Makes batches of examples for one checkpoint."""

    def __init__(self, tokenizer: PromptTokenizer, preprocess: PreprocessConfig) -> None:
        self._tokenizer, self._preprocess = tokenizer, preprocess

    def make(self, rows: Sequence[Example]) -> Batch:
        """Raises BadImage and the like for a picture that cannot be read."""
        paths = list(dict.fromkeys(row.picture for row in rows))
        return Batch(
            pixels_PCHW=torch.stack([self._pixels(path) for path in paths]),
            picture_of_R=torch.tensor([paths.index(row.picture) for row in rows]),
            prompts_RT=_padded([self._tokenizer.encode(row.sentence) for row in rows], PAD),
            answers_RL=_padded([self._tokenizer.encode(row.answer) for row in rows], IGNORED),
        )

    def _pixels(self, path: Path) -> Tensor:
        side = (self._preprocess.width, self._preprocess.height)
        return to_pixels(read(path, side), self._preprocess)


def _padded(rows: list[list[int]], value: int) -> Tensor:
    """Rows of one length, a multiple of 8: devices make their kernels anew for every shape, so there should be few."""
    longest = -(-max(map(len, rows)) // 8) * 8
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def ahead(maker: Maker, parts: Iterator[Sequence[Example]], workers: int) -> Iterator[Batch]:
    """A batch for each part, in order; `workers` threads make the next ones meanwhile."""
    with ThreadPoolExecutor(max(1, workers), "pictures") as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for part in parts:
                waiting.append(pool.submit(maker.make, part))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()
