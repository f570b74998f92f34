"""Beam search over tensors, for all running requests at once; no model in it.

The search is the one of transformers' `generate` (generation/utils.py, `_beam_search`, version 5), to the order of its
additions, so that the chosen tokens are the same: 2 x beams candidates a step, finished hypotheses kept by score over
length ** length_penalty, the n-gram ban and forced tokens applied to log-probabilities. Greedy search is one beam that
stops at its first end token. Each request has its own length, limit and options; a request with fewer beams than the
widest one carries dead beams, whose scores are minus infinity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vision_server.engine.config import DECODER_START, EOS, PAD

NEVER = -1.0e9  # what the reference adds to a score that must lose against every real one
FIRST_LENGTH = 64
_PER_SLOT = (
    *("_ids", "_best_ids", "_scores", "_best_scores", "_best_lengths"),
    *("_finished", "_improvable", "_beams", "_early"),
)


@dataclass(frozen=True)
class Rules:
    """How one request is searched. `limit` counts new tokens, the forced first and last included."""

    num_beams: int
    limit: int
    no_repeat_ngram_size: int
    length_penalty: float
    early_stopping: bool
    forced_bos: int | None
    forced_eos: int | None


class BeamSearch:
    """R requests of W beams; sequences (R, W, L) start with the decoder's start token. Slots are kept dense as in the
    cache: removing one moves the last into its place."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._reset()

    def _reset(self) -> None:
        device = self.device
        self.rules: list[Rules] = []
        self._lengths: list[int] = []
        self._width = 0
        self._ids = self._best_ids = torch.full((0, 0, FIRST_LENGTH), PAD, device=device)
        self._scores = self._best_scores = torch.zeros(0, 0, device=device)
        self._best_lengths = torch.zeros(0, 0, dtype=torch.long, device=device)
        self._finished = torch.zeros(0, 0, dtype=torch.bool, device=device)
        self._improvable = torch.zeros(0, 1, dtype=torch.bool, device=device)
        self._beams = torch.zeros(0, 1, dtype=torch.long, device=device)  # how many of the W are the request's own
        self._early = torch.zeros(0, 1, dtype=torch.bool, device=device)

    @property
    def tokens(self) -> Tensor:
        """(R, W) the newest token of every beam."""
        last = torch.tensor(self._lengths, device=self.device) - 1
        return self._ids.gather(2, last[:, None, None].expand(-1, self._width, 1))[:, :, 0]

    def new_tokens(self, slot: int) -> int:
        return self._lengths[slot] - 1

    def add(self, rules: list[Rules]) -> None:
        if not self.rules:
            self._reset()
        fresh, rows = len(self.rules), len(self.rules) + len(rules)
        width = max([self._width, *(r.num_beams for r in rules)])

        def widen(old: Tensor, fill: float | bool | int) -> Tensor:
            new = torch.full((rows, width, *old.shape[2:]), fill, dtype=old.dtype, device=self.device)
            new[: old.shape[0], : old.shape[1]] = old
            return new

        self._beams = torch.cat([self._beams, self._column([r.num_beams for r in rules])])
        self._early = torch.cat([self._early, self._column([r.early_stopping for r in rules])])
        self._improvable = torch.cat([self._improvable, self._column([True] * len(rules))])
        self._width = width
        dead = self._dead
        self._ids, self._best_ids = widen(self._ids, PAD), widen(self._best_ids, PAD)
        self._ids[fresh:, :, 0] = DECODER_START
        self._scores, self._best_scores = widen(self._scores, NEVER), widen(self._best_scores, NEVER)
        self._scores[fresh:, 0] = 0.0
        self._scores.masked_fill_(dead, -torch.inf)
        self._best_scores.masked_fill_(dead, -torch.inf)
        self._best_lengths = widen(self._best_lengths, 1)
        self._finished = widen(self._finished, False) | dead
        self.rules += rules
        self._lengths += [1] * len(rules)

    def remove(self, slot: int) -> None:
        """Forget `slot`; the last one moves into it."""
        last = len(self.rules) - 1
        for name in _PER_SLOT:
            tensor = getattr(self, name)
            tensor[slot] = tensor[last]
            setattr(self, name, tensor[:last])
        self.rules[slot], self._lengths[slot] = self.rules[last], self._lengths[last]
        self.rules.pop()
        self._lengths.pop()

    def _column(self, values: list[int] | list[bool] | list[float]) -> Tensor:
        return torch.tensor(values, device=self.device)[:, None]

    @property
    def _dead(self) -> Tensor:
        """(R, W) true for the beams that a request does not have."""
        return torch.arange(self._width, device=self.device) >= self._beams

    def result(self, slot: int) -> list[int]:
        """The best hypothesis without the decoder's start token, its end token included."""
        ids: list[int] = self._best_ids[slot, 0, 1 : int(self._best_lengths[slot, 0])].tolist()
        return ids

    def advance(self, logits_RWV: Tensor) -> tuple[Tensor, list[bool]]:
        """Take one step. Returns the parent of every new beam (R, W) and which requests are done."""
        if max(self._lengths) >= self._ids.shape[2]:
            more = torch.full_like(self._ids, PAD)
            self._ids, self._best_ids = torch.cat([self._ids, more], 2), torch.cat([self._best_ids, more], 2)
        length_R = torch.tensor(self._lengths, device=self.device)
        log_probs = self._constrain(torch.log_softmax(logits_RWV.float(), dim=-1), length_R)
        vocabulary = log_probs.shape[-1]
        totals = (log_probs + self._scores[:, :, None]).flatten(1)
        keep = 2 * self._width
        top, index = totals.topk(keep)
        rank = torch.arange(keep, device=self.device)
        spare = rank >= 2 * self._beams
        top = top.masked_fill(spare, -torch.inf)
        parents, tokens = index // vocabulary, index % vocabulary
        at_limit = self._column([n >= r.limit for n, r in zip(self._lengths, self.rules, strict=True)])
        hits = (tokens == EOS) | at_limit

        ids = self._ids.gather(1, parents[:, :, None].expand(-1, -1, self._ids.shape[2]))
        ids.scatter_(2, length_R[:, None, None].expand(-1, keep, 1), tokens[:, :, None])
        self._finish(ids, top, hits & (rank < self._beams), length_R)

        chosen_scores, chosen = (top + hits * NEVER).topk(self._width)
        self._ids = ids.gather(1, chosen[:, :, None].expand(-1, -1, ids.shape[2]))
        self._scores = chosen_scores.masked_fill(self._dead, -torch.inf)
        self._lengths = [length + 1 for length in self._lengths]
        done = self._is_done((hits | spare).all(dim=1, keepdim=True))
        return parents.gather(1, chosen), done

    def _constrain(self, log_probs: Tensor, length_R: Tensor) -> Tensor:
        """Ban what would repeat an n-gram, then force the first and the last token, as the options say."""
        for size in {r.no_repeat_ngram_size for r in self.rules} - {0}:
            log_probs = self._ban_repeats(log_probs, length_R, size)
        for slot, (rules, length) in enumerate(zip(self.rules, self._lengths, strict=True)):
            forced = rules.forced_bos if length == 1 else None
            if length == rules.limit and rules.forced_eos is not None:
                forced = rules.forced_eos
            if forced is not None:
                log_probs[slot] = -torch.inf
                log_probs[slot, :, forced] = 0.0
        return log_probs

    def _ban_repeats(self, log_probs: Tensor, length_R: Tensor, size: int) -> Tensor:
        longest = max(self._lengths)
        if longest < size:
            return log_probs
        ids = self._ids[:, :, :longest]
        windows = ids.unfold(2, size, 1)
        tail = (length_R[:, None] - torch.arange(size - 1, 0, -1, device=self.device)).clamp(min=0)
        prefix = ids.gather(2, tail[:, None].expand(-1, self._width, -1))
        starts = torch.arange(windows.shape[2], device=self.device)
        applies = self._column([r.no_repeat_ngram_size == size for r in self.rules])
        whole = (starts + size <= length_R[:, None]) & applies
        match = (windows[..., :-1] == prefix[:, :, None]).all(-1) & whole[:, None]
        penalty = torch.full(match.shape, torch.inf, device=self.device).masked_fill(match, -torch.inf)
        return log_probs.scatter_reduce(2, windows[..., -1], penalty, "amin")

    def _finish(self, ids: Tensor, top: Tensor, just: Tensor, length_R: Tensor) -> None:
        """Let the candidates that have just ended compete with the hypotheses kept so far."""
        full = self._finished.all(dim=1, keepdim=True) & self._early
        scores = top / self._norm(self._lengths)
        scores = scores + full * NEVER
        scores = scores + ~self._improvable * NEVER
        scores = scores + ~just * NEVER
        merged, index = torch.cat([self._best_scores, scores], dim=1).topk(self._width)
        lengths = (length_R[:, None] + 1).expand_as(just)
        rows = index[:, :, None].expand(-1, -1, ids.shape[2])
        self._best_ids = torch.cat([self._best_ids, ids], dim=1).gather(1, rows)
        self._best_lengths = torch.cat([self._best_lengths, lengths], dim=1).gather(1, index)
        finished = torch.cat([self._finished, just], dim=1).gather(1, index)
        self._finished, self._best_scores = finished | self._dead, merged.masked_fill(self._dead, -torch.inf)

    def _norm(self, lengths: list[int]) -> Tensor:
        """(R, 1) what scores are divided by: new tokens ** length_penalty."""
        return self._column([float(n**r.length_penalty) for n, r in zip(lengths, self.rules, strict=True)])

    def _is_done(self, nothing_left: Tensor) -> list[bool]:
        dead = self._dead
        worst = self._best_scores.masked_fill(dead, torch.inf).amin(dim=1, keepdim=True)
        worst = torch.where(self._finished, worst, NEVER)
        best_possible = self._scores[:, :1] / self._norm([length - 1 for length in self._lengths])
        self._improvable &= ((best_possible > worst) & ~dead).any(dim=1, keepdim=True)
        open_beam = ~(self._finished.all(dim=1, keepdim=True) & self._early)
        done: list[bool] = (~(self._improvable & open_beam) | nothing_left)[:, 0].tolist()
        return done
