"""What the decoder remembers between two tokens, for all running requests at once. Holds no weights and no scores.

Every request owns a slot; the active slots are always the first `active` ones, so a step works on plain prefixes.
Self-attention: each beam writes its key once, at (position, beam), and never moves it. Which of the written keys belong
to a beam's own past is a boolean ancestry table, so choosing new parents after a beam step reorders a few kilobytes of
booleans in place of whole caches. The beams of a request are the query positions of one attention call over that
request's keys. Cross-attention: keys and values once a request, read by all its beams.
"""

from __future__ import annotations

import torch
from torch import Tensor

FIRST_LENGTH = 64  # tokens; a caption rarely needs more, and the buffers double when one does


class DecoderCache:
    """Shapes: R active requests, W beams (the widest request's), T positions, H heads, S source positions, d head size.

    Not thread-safe; all methods are called by the one thread that steps.
    """

    def __init__(
        self, layers: int, heads: int, head_dim: int, max_positions: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.layers, self.heads, self.head_dim, self.max_positions = layers, heads, head_dim, max_positions
        self.device, self.dtype = device, dtype
        self.active = 0
        self._clear()

    def _clear(self) -> None:
        self.width = 0
        self._lengths: list[int] = []
        self._sources: list[int] = []
        self._self = self._zeros(0, 0, 0)
        self._cross = self._cross_zeros(0, 0)
        self._ancestry = torch.zeros(0, 0, 0, 0, dtype=torch.bool, device=self.device)
        self._positions = torch.zeros(0, dtype=torch.long, device=self.device)

    def _zeros(self, slots: int, positions: int, width: int) -> Tensor:
        shape = (self.layers, 2, slots, self.heads, positions, width, self.head_dim)
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def _cross_zeros(self, slots: int, sources: int) -> Tensor:
        shape = (self.layers, 2, slots, self.heads, sources, self.head_dim)
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    @property
    def positions(self) -> Tensor:
        """(R,) the position that the next token of each request takes."""
        return self._positions[: self.active]

    def add(self, cross_L2RHSd: Tensor, sources: list[int], width: int) -> None:
        """Append requests: their cross-attention keys and values (L, 2, R, H, S, d), how many of the S are real for
        each, and the beams they need."""
        new, end = len(sources), self.active + len(sources)
        self._reserve(end, max(self.width, width), FIRST_LENGTH, cross_L2RHSd.shape[4])
        self._cross[:, :, self.active : end, :, : cross_L2RHSd.shape[4]] = cross_L2RHSd
        self._ancestry[self.active : end] = False
        self._positions[self.active : end] = 0
        self._lengths += [0] * new
        self._sources += sources
        self.active = end

    def remove(self, slot: int) -> None:
        """Free `slot`; the last active slot moves into it."""
        last = self.active - 1
        if slot != last:
            length = self._lengths[last]
            self._self[:, :, slot, :, :length] = self._self[:, :, last, :, :length]
            self._cross[:, :, slot] = self._cross[:, :, last]
            self._ancestry[slot] = self._ancestry[last]
            self._positions[slot] = self._positions[last]
            self._lengths[slot], self._sources[slot] = self._lengths[last], self._sources[last]
        self._lengths.pop()
        self._sources.pop()
        self.active = last
        if not last:
            self._clear()

    def _reserve(self, slots: int, width: int, positions: int, sources: int) -> None:
        """Grow the buffers to hold at least this much; what is in use is copied."""
        old_slots, old_positions, old_width = self._ancestry.shape[:3]
        if slots > old_slots or width > old_width or positions > old_positions:
            slots, positions = max(slots, old_slots), max(positions, old_positions)
            width = max(width, old_width)
            grown = self._zeros(slots, positions, width)
            grown[:, :, :old_slots, :, :old_positions, :old_width] = self._self
            ancestry = torch.zeros(slots, width, positions, width, dtype=torch.bool, device=self.device)
            ancestry[:old_slots, :old_width, :old_positions, :old_width] = self._ancestry.permute(0, 2, 1, 3)
            self._self, self._ancestry, self.width = grown, ancestry.permute(0, 2, 1, 3), width
            at = torch.zeros(slots, dtype=torch.long, device=self.device)
            at[:old_slots] = self._positions
            self._positions = at
        old_slots, old_sources = self._cross.shape[2], self._cross.shape[4]
        if slots > old_slots or sources > old_sources:
            cross = self._cross_zeros(max(slots, old_slots), max(sources, old_sources))
            cross[:, :, :old_slots, :, :old_sources] = self._cross
            self._cross = cross

    def begin_step(self) -> None:
        """Make room for one more position and let every beam see the key it is about to write."""
        self._span = max(self._lengths) + 1
        if self._span > self._ancestry.shape[1]:
            longer = min(2 * self._ancestry.shape[1], self.max_positions)
            self._reserve(self._ancestry.shape[0], self.width, longer, self._cross.shape[4])
        rows = torch.arange(self.active, device=self.device)
        beams = torch.arange(self.width, device=self.device)
        self._write = (rows[:, None], self.positions[:, None] * self.width + beams)
        self._ancestry[rows[:, None], self.positions[:, None], beams, beams] = True
        visible = self._ancestry[: self.active, : self._span].transpose(1, 2)
        self._mask = visible.reshape(self.active, 1, self.width, self._span * self.width)
        self._cross_span = max(self._sources)
        self._cross_mask: Tensor | None = None
        if min(self._sources) < self._cross_span:
            real = torch.tensor(self._sources, device=self.device)[:, None]
            self._cross_mask = (torch.arange(self._cross_span, device=self.device) < real)[:, None, None, :]

    def extend(self, layer: int, keys_RHWd: Tensor, values_RHWd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write this step's keys and values of a layer; returns all keys, all values (R, H, T*W, d) and the mask
        (R, 1, W, T*W), true where a beam may look."""
        rows, columns = self._write
        out = []
        for store, new in zip(self._self[layer], (keys_RHWd, values_RHWd), strict=True):
            flat = store.flatten(2, 3)
            flat[rows, :, columns] = new.transpose(1, 2)
            out.append(flat[: self.active, :, : self._span * self.width])
        return out[0], out[1], self._mask

    def cross(self, layer: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values (R, H, S, d) of the encoder's states; the mask is None when all requests are equally long."""
        keys, values = self._cross[layer, :, : self.active, :, : self._cross_span]
        return keys, values, self._cross_mask

    def end_step(self) -> None:
        self._positions[: self.active] += 1
        self._lengths = [length + 1 for length in self._lengths]

    def reorder(self, parents_RW: Tensor) -> None:
        """Every beam continues the past of its parent."""
        past = self._ancestry[: self.active, : self._span]
        index = parents_RW[:, None, :, None].expand(-1, self._span, -1, self.width)
        self._ancestry[: self.active, : self._span] = past.gather(2, index)
