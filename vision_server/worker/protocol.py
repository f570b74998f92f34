"""What the daemon and its worker say to each other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How to decode, as the engine's own `Options` means it; the API checks the ranges before a request is queued."""

    num_beams: int = 3
    max_new_tokens: int | None = None
    no_repeat_ngram_size: int = 3
    length_penalty: float = 1.0
    early_stopping: bool = True
