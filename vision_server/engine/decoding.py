"""The running decode: requests in slots, one step for all of them. Knows no pictures, prompts or tickets.

Slots are dense: removing one moves the last into its place. A step (newest tokens, decoder over the caches, beam
search, reordering) is one function of the plan that works in place on fixed buffers, called as it is or replayed from a
graph. What the host must know of a request it knows without asking the device: its length grows by one each step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vision_server.engine.beam import BeamSearch, Rules
from vision_server.engine.cache import DecoderCache
from vision_server.engine.config import TextConfig
from vision_server.engine.graphs import StepGraphs
from vision_server.engine.policy import Extent, Plan, Policy
from vision_server.engine.text import TextModel


@dataclass
class _Slot:
    """`length` counts the tokens of a beam, the decoder's start token included; `sources` the encoder's states."""

    rules: Rules
    sources: int
    length: int = 1


class Decoding:
    """Not thread-safe. Its methods run under torch.inference_mode."""

    def __init__(
        self,
        text: TextModel,
        config: TextConfig,
        device: torch.device,
        dtype: torch.dtype,
        policy: Policy,
        graphs: StepGraphs,
    ) -> None:
        self._text, self._config, self._policy, self._graphs = text, config, policy, graphs
        self._device, self._dtype = device, dtype
        self._slots: list[_Slot] = []
        self._unseen = 0  # steps since the host looked at who is done
        self._allocate()

    def _allocate(self) -> None:
        self._shedding = False  # whether the buffers go with the last request, of whatever size they are
        config, nothing = self._config, Extent()
        head_dim = config.d_model // config.decoder_attention_heads
        self._cache = DecoderCache(
            config.decoder_layers, config.decoder_attention_heads, head_dim, nothing, self._device, self._dtype
        )
        self._beams = BeamSearch(nothing, config.max_position_embeddings, self._device)

    def __len__(self) -> int:
        return len(self._slots)

    def new_tokens(self, slot: int) -> int:
        return self._slots[slot].length - 1

    def add(self, cross_L2RHSd: Tensor, sources: list[int], rules: list[Rules]) -> None:
        """Append requests: what `Network.cross_keys_values` made of their states, how many of the S are real for each,
        and how they are searched. Raises torch.OutOfMemoryError, and then nothing has changed."""
        width = max(rule.num_beams for rule in rules)
        if not self._slots and width != self._cache.size.width:
            self.release()  # buffers for wider requests would be searched in full for ever
        first = len(self._slots)
        slots = [_Slot(rule, count) for rule, count in zip(rules, sources, strict=True)]
        self._reserve([*self._slots, *slots], width)
        self._cache.add(first, cross_L2RHSd, sources)
        self._beams.add(first, rules)
        self._slots += slots

    def _reserve(self, slots: list[_Slot], width: int) -> None:
        """Move into larger buffers where these slots and the step they take next do not fit."""
        size, needed = self._cache.size, self._needed(slots, width)
        if not size.covers(needed):
            size = size.joined(needed.rounded(self._config.max_position_embeddings))
            self._graphs.clear()  # their memory first
            cache = self._cache.grown(size)
            self._cache, self._beams = cache, self._beams.grown(size)

    def _needed(self, slots: list[_Slot], width: int) -> Extent:
        return Extent(len(slots), width, max(slot.length for slot in slots), max(slot.sources for slot in slots))

    def _own(self, slot: _Slot) -> Extent:
        return Extent(1, slot.rules.num_beams, slot.length, slot.sources)

    def step(self) -> list[int]:
        """Advance every request by one token. Returns the slots known to be done: all that are, at the latest
        `check_every` steps later, and those at their limit at once. Raises torch.OutOfMemoryError."""
        width = self._cache.size.width
        self._reserve(self._slots, width)
        plan = self._plan(self._needed(self._slots, width))
        self._graphs.run(plan, lambda: self._advance(plan))
        for slot in self._slots:
            slot.length += 1
        self._unseen += 1
        at_limit = any(slot.length > slot.rules.limit for slot in self._slots)
        if not at_limit and self._unseen < self._policy.check_every:
            return []
        self._unseen = 0
        return [number for number, done in enumerate(self._beams.done(len(self._slots))) if done]

    def _plan(self, needed: Extent) -> Plan:
        ngrams = sorted({slot.rules.no_repeat_ngram_size for slot in self._slots} - {0})
        padded = any(slot.sources < needed.sources for slot in self._slots)
        if self._policy.rounded:
            needed, padded = needed.rounded(self._config.max_position_embeddings), True
        apart = tuple(map(self._own, self._slots)) if self._policy.apart else ()
        return Plan(needed, padded, tuple(ngrams), apart)

    def _advance(self, plan: Plan) -> None:
        """The step itself: no value is read by the host, and nothing but the buffers is written."""
        tokens, positions = self._beams.newest(plan)
        logits = self._text.step(tokens, self._cache.open(plan, positions))
        self._cache.reorder(plan, self._beams.advance(plan, logits))

    def result(self, slot: int) -> list[int]:
        """The best answer of a request that is done: token ids, its end token included."""
        return self._beams.result(slot)

    def remove(self, slot: int) -> None:
        """Forget a request; the last slot moves into its place."""
        last = len(self._slots) - 1
        self._cache.remove(slot, last, max(self._slots[slot].length, self._slots[last].length))
        self._beams.remove(slot, last)
        self._slots[slot] = self._slots[last]
        self._slots.pop()
        if not self._slots and (self._shedding or self._cache.nbytes > self._policy.kept_bytes):
            self.release()

    def release(self) -> None:
        """Give up the graphs now, and the buffers as soon as no request runs."""
        self._graphs.clear()
        self._shedding = True
        if not self._slots:
            self._allocate()
