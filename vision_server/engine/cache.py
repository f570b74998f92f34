"""What the decoder remembers between two tokens, for all running requests at once. Holds no weights and no scores.

Every request owns a slot; the ones in use are always the first, so a step works on plain prefixes.
Self-attention: each beam writes its key once, at (position, beam), and never moves it. Which of the written keys belong
to a beam's own past is a boolean ancestry table, so choosing new parents after a beam step reorders a few kilobytes of
booleans in place of whole caches. The beams of a request are the query positions of one attention call over that
request's keys. Cross-attention: keys and values once a request, read by all its beams.

Where a plan keeps requests apart, each attends to what is its own, and gets the bits that it would get alone; else all
do in one call, over as many keys as the longest of them has.

The buffers never move: a step writes into them in place and can be captured as a CUDA graph. What no request uses is
finite, since a masked key counts for nothing only if its value is a number (0 * NaN is NaN): it is zero, or what the
step itself wrote for a slot that is not in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from vision_server.engine.policy import Extent, Plan


class DecoderCache:
    """Shapes: L layers, N slots, R of them in a step, W beams, T positions, H heads, S source positions, d head size.

    Of fixed size: a larger one with the same contents is made by `grown`. Not thread-safe.
    """

    def __init__(
        self, layers: int, heads: int, head_dim: int, size: Extent, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.size = size
        self._of = (layers, heads, head_dim)
        self._device, self._dtype = device, dtype
        rows, width, span, sources = size.rows, size.width, size.span, size.sources
        self._self = torch.zeros(layers, 2, rows, heads, span, width, head_dim, device=device, dtype=dtype)
        self._cross = torch.zeros(layers, 2, rows, heads, sources, head_dim, device=device, dtype=dtype)
        # (N, T, beam, key's beam), in memory as attention reads it: a beam's keys beside one another
        self._ancestry = torch.zeros(rows, width, span, width, dtype=torch.bool, device=device).transpose(1, 2)
        # One real source where there is no request: a softmax over nothing is NaN.
        self._sources = torch.ones(rows, 1, dtype=torch.long, device=device)

    @property
    def nbytes(self) -> int:
        return self._self.nbytes + self._cross.nbytes

    def grown(self, size: Extent) -> DecoderCache:
        """The same in buffers of `size`, which covers this one's. Raises torch.OutOfMemoryError."""
        other = DecoderCache(*self._of, size, self._device, self._dtype)
        for name in ("_self", "_cross", "_ancestry", "_sources"):
            old = getattr(self, name)
            getattr(other, name)[tuple(map(slice, old.shape))] = old
        return other

    def add(self, slot: int, cross_L2RHSd: Tensor, sources: list[int]) -> None:
        """Put requests into `slot` and the next ones: their cross-attention keys and values (L, 2, R, H, S, d), and how
        many of the S are real for each."""
        end = slot + len(sources)
        self._cross[:, :, slot:end, :, : cross_L2RHSd.shape[4]] = cross_L2RHSd
        self._ancestry[slot:end] = False
        self._sources[slot:end, 0] = torch.tensor(sources, device=self._device)

    def remove(self, slot: int, last: int, span: int) -> None:
        """The request in `last` moves into `slot`; `last` is clean again. `span`: the positions either has used."""
        if slot != last:
            self._self[:, :, slot, :, :span] = self._self[:, :, last, :, :span]
            self._cross[:, :, slot] = self._cross[:, :, last]
            self._ancestry[slot] = self._ancestry[last]
            self._sources[slot] = self._sources[last]
        self._self[:, :, last, :, :span] = 0
        self._cross[:, :, last] = 0
        self._ancestry[last] = False
        self._sources[last] = 1

    def open(self, plan: Plan, positions_R1: Tensor) -> CacheStep:
        """Begin a step that writes at these positions (R, 1); every beam sees the key it is about to write."""
        size = plan.extent
        beams = torch.arange(size.width, device=self._device)
        past = self._ancestry[: size.rows, : size.span]
        block = (size.rows, 1, size.width, size.width)
        at = positions_R1[:, :, None, None].expand(block)
        past.scatter_(1, at, (beams[:, None] == beams).expand(block))
        real = None
        if plan.padded and not plan.apart:
            real = torch.arange(size.sources, device=self._device) < self._sources[: size.rows]
        return CacheStep(
            self._self[:, :, : size.rows, :, : size.span],
            self._cross[:, :, : size.rows, :, : size.sources],
            positions_R1[:, 0],
            self._additive(past.transpose(1, 2)),
            None if real is None else self._additive(real[:, None, None, :]),
            plan,
        )

    def _additive(self, visible: Tensor) -> Tensor:
        """0 where true, else minus infinity: what attention adds to its scores. A boolean mask would be turned into
        that again in every layer."""
        return torch.zeros(visible.shape, device=self._device, dtype=self._dtype).masked_fill_(~visible, -torch.inf)

    def reorder(self, plan: Plan, parents_RW: Tensor) -> None:
        """Every beam continues the past of its parent."""
        size = plan.extent
        past = self._ancestry[: size.rows, : size.span]
        past.copy_(past.gather(2, parents_RW[:, None, :, None].expand(past.shape)))


def attention(q_RHWd: Tensor, keys_RHKd: Tensor, values_RHKd: Tensor, mask: Tensor | None) -> Tensor:
    """`scaled_dot_product_attention` in its plain steps. Its flash kernel for the CPU has a scratch buffer a thread,
    and a product's last bits follow from how that happens to lie; these products are the same on every thread."""
    scores = torch.matmul(q_RHWd * q_RHWd.shape[-1] ** -0.5, keys_RHKd.transpose(-1, -2))
    if mask is not None:
        scores += mask
    return torch.matmul(scores.softmax(dim=-1), values_RHKd)


def _alike(apart: tuple[Extent, ...], size: Callable[[Extent], tuple[int, int]]) -> Iterator[tuple[slice, Extent]]:
    """Neighbours of one size, which can attend in one call, and that size."""
    for _, run in groupby(enumerate(apart), lambda numbered: size(numbered[1])):
        (first, its), *others = run
        yield slice(first, first + 1 + len(others)), its


def _joined(parts: list[Tensor], width: int) -> Tensor:
    """(r, H, w, d) of neighbours -> (R, H, W, d), zero for beams that a request does not have."""
    if any(part.shape[2] < width for part in parts):
        parts = [F.pad(part, (0, 0, 0, width - part.shape[2])) for part in parts]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


class CacheStep:
    """What one step writes and reads: views of the buffers, made anew for every step."""

    def __init__(
        self,
        own_L2RHTWd: Tensor,
        cross_L2RHSd: Tensor,
        positions_R: Tensor,
        mask_RWTW: Tensor,
        real: Tensor | None,
        plan: Plan,
    ) -> None:
        """`mask_RWTW` is zero where a beam may look, `real` (R, 1, 1, S) where a source is one, None where all are;
        both are added to scores."""
        self.positions_R = positions_R
        self._own, self._width = own_L2RHTWd, plan.extent.width
        self._rows = torch.arange(len(positions_R), device=positions_R.device)
        self._attention = attention if plan.apart else F.scaled_dot_product_attention
        whole = [(slice(None), plan.extent)]
        self._pasts = [
            (
                (rows, slice(None), slice(0, its.width)),
                own_L2RHTWd[:, :, rows, :, : its.span, : its.width],
                mask_RWTW[rows, : its.width, : its.span, : its.width].flatten(2)[:, None],
            )
            for rows, its in list(_alike(plan.apart, lambda its: (its.width, its.span))) or whole
        ]
        self._sources = [
            ((rows, slice(None), slice(0, its.width)), cross_L2RHSd[:, :, rows, :, : its.sources], real)
            for rows, its in list(_alike(plan.apart, lambda its: (its.width, its.sources))) or whole
        ]

    def attend(self, layer: int, q_RHWd: Tensor, new_2RHWd: Tensor) -> Tensor:
        """Write this step's keys and values of a layer; then every beam looks at its own past. (R, H, W, d)"""
        self._own[layer][:, self._rows, :, self.positions_R] = new_2RHWd.transpose(0, 1)
        parts = [
            self._attention(q_RHWd[queries], own[layer, 0].flatten(2, 3), own[layer, 1].flatten(2, 3), mask)
            for queries, own, mask in self._pasts
        ]
        return _joined(parts, self._width)

    def attend_sources(self, layer: int, q_RHWd: Tensor) -> Tensor:
        """Every beam looks at the encoder's states of its request. (R, H, W, d)"""
        parts = [
            self._attention(q_RHWd[queries], cross[layer, 0], cross[layer, 1], real)
            for queries, cross, real in self._sources
        ]
        return _joined(parts, self._width)
