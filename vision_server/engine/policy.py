"""How decoding is laid out on a device, in memory and in time. Nothing here changes an answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
_MORE_ROWS = 32  # beyond the table: a multiple of this
_LEAST_SPAN = 64  # tokens; a caption rarely needs more
_SOURCES = 64  # a multiple of it; the image takes 577, so that prompts of up to 63 tokens share one size


@dataclass(frozen=True)
class Extent:
    """How much buffers hold, or a step works on: `rows` R requests, `width` W beams (the widest request's), `span` T
    positions of an answer, `sources` S positions of the encoder's states."""

    rows: int = 0
    width: int = 0
    span: int = 0
    sources: int = 0

    def covers(self, other: Extent) -> bool:
        return self == self.joined(other)

    def joined(self, other: Extent) -> Extent:
        return Extent(
            max(self.rows, other.rows),
            max(self.width, other.width),
            max(self.span, other.span),
            max(self.sources, other.sources),
        )

    def rounded(self, most_positions: int) -> Extent:
        """Rows and sources up to the next of a few sizes, the span to a power of two, but to no more positions than
        there are. Attention masks of such a size fit the memory-efficient kernel as they are: it wants multiples of 8
        keys and would copy others into such a shape (`pad_bias` in ATen's transformers/attention.cpp).
        """
        rows = next((size for size in _ROWS if size >= self.rows), _multiple(self.rows, _MORE_ROWS))
        span = max(_LEAST_SPAN, 1 << (self.span - 1).bit_length())
        return Extent(rows, self.width, min(span, most_positions), _multiple(self.sources, _SOURCES))


def _multiple(count: int, of: int) -> int:
    return -(-count // of) * of


@dataclass(frozen=True)
class Plan:
    """All that the host decides about a step: steps with equal plans run the same operations on the same memory.

    `padded`: some of the S source positions are not real and must be masked. `ngrams`: the sizes of n-grams that some
    request must not repeat. `apart`: what is each request's own of the extent; empty where all attend to the whole.
    """

    extent: Extent
    padded: bool
    ngrams: tuple[int, ...]
    apart: tuple[Extent, ...] = ()


@dataclass(frozen=True)
class Policy:
    """`rounded`: a step works on a rounded extent, so that few plans occur and each can be captured once; else exactly
    on what is in use. `apart`: each request attends to its own keys and to no masked ones beside them; how a kernel
    adds up depends on how many there are, so only then is an answer the same to the last bit whoever shares the steps.
    `check_every`: after how many steps the host looks at who is done, waiting for the device; requests at their limit
    it knows without. `admit_at_once`: requests encoded together before the running ones get their next token.
    `kept_bytes`: buffers of at most this size outlive their last request, and the graphs with them.
    """

    rounded: bool
    apart: bool
    check_every: int
    admit_at_once: int
    kept_bytes: int

    def __post_init__(self) -> None:
        if self.rounded and self.apart:
            raise ValueError("a rounded extent is nobody's own")


# Where the host itself computes, looking costs nothing, and pictures gain nothing from being encoded together: on two
# cores, each of base's takes 7 % longer in a pair and 18 % in a batch of four.
CPU = Policy(rounded=False, apart=True, check_every=1, admit_at_once=1, kept_bytes=0)
CUDA = Policy(rounded=True, apart=False, check_every=4, admit_at_once=8, kept_bytes=2 << 30)
OTHERS = Policy(rounded=False, apart=False, check_every=4, admit_at_once=8, kept_bytes=0)


def policy_for(device: torch.device, dtype: torch.dtype) -> Policy:
    """The narrow dtypes round more than an order of sums does; their attention keeps its scores in float32."""
    if device.type == "cpu":
        return CPU if dtype == torch.float32 else replace(CPU, apart=False)
    return CUDA if device.type == "cuda" else OTHERS
