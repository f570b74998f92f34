"""What the decoder remembers between two tokens, for all running requests at once. Holds no weights and no scores.

Every request owns a slot; the ones in use are always the first, so a step works on plain prefixes.
Self-attention: each beam writes its key once, at (position, beam), and never moves it. Which of the written keys belong
to a beam's own past is a boolean ancestry table, so choosing new parents after a beam step reorders a few kilobytes of
booleans in place of whole caches. The beams of a request are the query positions of one attention call over that
request's keys. Cross-attention: keys and values once a request, read by all its beams.

The buffers never move: a step writes into them in place and can be captured as a CUDA graph. What no request uses is
finite, since a masked key counts for nothing only if its value is a number (0 * NaN is NaN): it is zero, or what the
step itself wrote for a slot that is not in use.
"""

from __future__ import annotations

import torch
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
        visible = past.transpose(1, 2).reshape(size.rows, 1, size.width, size.span * size.width)
        real = None
        if plan.padded:
            real = torch.arange(size.sources, device=self._device) < self._sources[: size.rows]
        return CacheStep(
            self._self[:, :, : size.rows].flatten(4, 5)[:, :, :, :, : size.span * size.width],
            self._cross[:, :, : size.rows, :, : size.sources],
            positions_R1[:, 0],
            positions_R1 * size.width + beams,
            self._additive(visible),
            None if real is None else self._additive(real[:, None, None, :]),
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


class CacheStep:
    """What one step writes and reads: views of the buffers, made anew for every step."""

    def __init__(
        self,
        own_L2RHKd: Tensor,
        cross_L2RHSd: Tensor,
        positions_R: Tensor,
        columns_RW: Tensor,
        mask: Tensor,
        cross_mask: Tensor | None,
    ) -> None:
        self.positions_R = positions_R
        self._own, self._cross = own_L2RHKd, cross_L2RHSd
        self._rows = torch.arange(len(positions_R), device=positions_R.device)[:, None]
        self._columns, self._mask, self._cross_mask = columns_RW, mask, cross_mask

    def extend(self, layer: int, new_2RHWd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write this step's keys and values of a layer; returns all keys, all values (R, H, T*W, d) and the mask
        (R, 1, W, T*W) to be added, zero where a beam may look."""
        keys, values = own = self._own[layer]
        own[:, self._rows, :, self._columns] = new_2RHWd.permute(1, 3, 0, 2, 4)
        return keys, values, self._mask

    def cross(self, layer: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values (R, H, S, d) of the encoder's states, and the mask (R, 1, 1, S) to be added; None where all
        sources are real."""
        keys, values = self._cross[layer]
        return keys, values, self._cross_mask
