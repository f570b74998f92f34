"""How to train, as one frozen value; the flags of the command come from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

# Names for groups of layers, as patterns of the native layout's names.
MODULES: Final[dict[str, str]] = {
    "attention": r".*\.(?:q_proj|k_proj|v_proj|out_proj|qkv|(?:window|channel)_attn\.proj)",
    "feedforward": r".*\.fc[12]",
    "projector": r".*\.image_projection",
    "convolutions": r".*\.convs\.\d+\.conv",
}
PRECISIONS: Final = ("fp32", "bf16", "fp16")
BEST_BY: Final = ("loss", "exact", "similarity", "cider", "iou")


@dataclass(frozen=True)
class Lora:
    """Hu et al. 2021: weights W become W + alpha / rank * B A, of which B and A are learned.

    `modules` are names of MODULES or ends of layers' names; `rank_stabilised` divides by the root of the rank instead.
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.05
    rank_stabilised: bool = False
    modules: tuple[str, ...] = ("attention", "feedforward", "projector")


@dataclass(frozen=True)
class Options:
    """How long and how fast, on what, and how it is watched.

    A step learns from `batch` x `accumulate` rows on each device. The rate rises over `warmup` steps and falls as a
    cosine to `last_rate` of itself. `lora` None trains all weights. `validate_every` and `save_every` count steps, 0:
    once in a pass through the data. `patience` is how many validations without a better one end the run, 0: none does.
    """

    epochs: float = 3.0
    max_steps: int = 0  # 0: as many as the epochs have
    batch: int = 8
    accumulate: int = 1
    rate: float = 0.0  # 0: 1e-4 for LoRA, 1e-5 for all weights
    last_rate: float = 0.0
    warmup: int = 0  # 0: the twentieth part of the steps
    weight_decay: float = 0.0
    clip: float = 1.0
    dropout: float = 0.1
    seed: int = 0
    precision: str = "fp32"
    recompute: bool = False
    frozen_vision: bool = False
    lora: Lora | None = field(default_factory=Lora)
    validate_every: int = 0
    validation_answers: int = 200
    best_by: str = "loss"
    patience: int = 0
    save_every: int = 0
    workers: int = 4

    @property
    def top_rate(self) -> float:
        return self.rate or (1e-5 if self.lora is None else 1e-4)
