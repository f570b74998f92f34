"""Beam search over tensors, for all running requests at once; no model in it.

The search is the one of transformers' `generate` (generation/utils.py, `_beam_search`, version 5), to the order of its
additions, so that the chosen tokens are the same: 2 x beams candidates a step, finished hypotheses kept by score over
length ** length_penalty, the n-gram ban and forced tokens applied to log-probabilities. Greedy search is one beam that
stops at its first end token. Each request has its own length, limit and options; a request with fewer beams than the
widest one carries dead beams, whose scores are minus infinity.

All that a step changes lies in buffers that never move, and nothing in a step depends on a value that the host would
have to read: it can be captured as a CUDA graph. A request that is done stays done, its result as it is, however many
more steps are taken.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from vision_server.engine.config import DECODER_START, EOS, PAD
from vision_server.engine.policy import Extent, Plan

NEVER = -1.0e9  # what the reference adds to a score that must lose against every real one
_NONE = -1  # no forced token


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


@dataclass(frozen=True)
class _Rows:
    """The search of N requests of W beams, sequences of up to T + 1 tokens with the decoder's start token. What belongs
    to a whole request is a column, (N, 1)."""

    ids: Tensor  # (N, W, T+1)
    scores: Tensor  # (N, W), the best first
    best_ids: Tensor  # (N, W, T+1), the finished hypotheses, the best first
    best_scores: Tensor
    best_lengths: Tensor
    finished: Tensor  # (N, W): whether that place of the best ones is taken
    improvable: Tensor
    done: Tensor
    lengths: Tensor  # tokens so far, the start token included
    growth: Tensor  # of the length a step: 1; 0 in a slot not in use
    beams: Tensor  # how many of the W are the request's own
    limits: Tensor
    ngrams: Tensor
    early: Tensor
    forced_bos: Tensor
    forced_eos: Tensor
    norms: Tensor  # (N, P+1): what the scores of that many new tokens are divided by

    @classmethod
    def unused(cls, size: Extent, positions: int, device: torch.device) -> _Rows:
        """Slots without a request: all beams dead but finite enough to be stepped along with the others."""
        rows, width, length = size.rows, size.width, size.span + 1

        def flags(columns: int, value: bool) -> Tensor:
            return torch.full((rows, columns), value, device=device)

        def column(value: int) -> Tensor:
            return torch.full((rows, 1), value, device=device)

        return cls(
            ids=torch.full((rows, width, length), PAD, device=device),
            scores=torch.full((rows, width), -torch.inf, device=device),
            best_ids=torch.full((rows, width, length), PAD, device=device),
            best_scores=torch.full((rows, width), -torch.inf, device=device),
            best_lengths=torch.ones(rows, width, dtype=torch.long, device=device),
            finished=flags(width, True),
            improvable=flags(1, True),
            done=flags(1, False),
            lengths=column(1),
            growth=column(0),
            beams=column(0),
            limits=column(1),
            ngrams=column(0),
            early=flags(1, False),
            forced_bos=column(_NONE),
            forced_eos=column(_NONE),
            norms=torch.ones(rows, positions + 1, device=device),
        )

    def part(self, rows: slice, length: int | None = None) -> _Rows:
        """Views of some rows, their sequences cut to `length`."""
        views = {field.name: getattr(self, field.name)[rows] for field in fields(self)}
        for name in ("ids", "best_ids"):
            views[name] = views[name][:, :, :length]
        return _Rows(**views)

    def take(self, other: _Rows) -> None:
        """Copy what is no larger in any way than this."""
        for field in fields(self):
            new = getattr(other, field.name)
            getattr(self, field.name)[tuple(map(slice, new.shape))] = new


class BeamSearch:
    """N slots of W beams, R of them in a step. Of fixed size: a larger one with the same contents is made by `grown`.
    `positions` is the most new tokens that a request may have."""

    def __init__(self, size: Extent, positions: int, device: torch.device) -> None:
        self._positions, self._device = positions, device
        self._rows = _Rows.unused(size, positions, device)
        self._clean = _Rows.unused(Extent(1, size.width, size.span), positions, device)

    def grown(self, size: Extent) -> BeamSearch:
        """The same in buffers of `size`, which covers this one's. Raises torch.OutOfMemoryError."""
        other = BeamSearch(size, self._positions, self._device)
        other._rows.take(self._rows)
        return other

    def add(self, slot: int, rules: list[Rules]) -> None:
        """Put requests into `slot` and the next ones."""
        for number, rule in enumerate(rules, slot):
            row = self._rows.part(slice(number, number + 1))
            row.take(self._clean)
            beams = slice(0, rule.num_beams)
            row.ids[:, beams, 0] = DECODER_START
            row.scores[:, beams], row.best_scores[:, beams] = NEVER, NEVER
            row.scores[:, 0] = 0.0
            row.finished[:, beams] = False
            row.growth.fill_(1)
            row.beams.fill_(rule.num_beams)
            row.limits.fill_(rule.limit)
            row.ngrams.fill_(rule.no_repeat_ngram_size)
            row.early.fill_(rule.early_stopping)
            row.forced_bos.fill_(_NONE if rule.forced_bos is None else rule.forced_bos)
            row.forced_eos.fill_(_NONE if rule.forced_eos is None else rule.forced_eos)
            # Python's power, since that is what the reference divides by.
            norms = [float(new**rule.length_penalty) for new in range(1, rule.limit + 1)]
            row.norms[0, 1 : rule.limit + 1] = torch.tensor(norms, device=self._device)

    def remove(self, slot: int, last: int) -> None:
        """The request in `last` moves into `slot`; `last` is not in use any more."""
        if slot != last:
            self._rows.part(slice(slot, slot + 1)).take(self._rows.part(slice(last, last + 1)))
        self._rows.part(slice(last, last + 1)).take(self._clean)

    def done(self, rows: int) -> list[bool]:
        """Which of the first `rows` requests are done. Waits for the device."""
        done: list[bool] = self._rows.done[:rows, 0].tolist()
        return done

    def result(self, slot: int) -> list[int]:
        """The best hypothesis without the decoder's start token, its end token included. Waits for the device."""
        ids: list[int] = self._rows.best_ids[slot, 0, 1 : int(self._rows.best_lengths[slot, 0])].tolist()
        return ids

    def newest(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """The last token of every beam (R, W), and its position (R, 1)."""
        positions = self._rows.lengths[: plan.extent.rows] - 1
        ids = self._rows.ids[: plan.extent.rows]
        return ids.gather(2, positions[:, :, None].expand(-1, plan.extent.width, 1))[:, :, 0], positions

    def advance(self, plan: Plan, logits_RWV: Tensor) -> Tensor:
        """Take one step; returns the parent of every new beam (R, W). All is computed before anything is written."""
        width = plan.extent.width
        rows = self._rows.part(slice(0, plan.extent.rows), plan.extent.span + 1)
        rank = torch.arange(2 * width, device=self._device)
        dead, spare = rank[:width] >= rows.beams, rank >= 2 * rows.beams
        top, parents, tokens = _force(rows, *_best_candidates(rows, plan.ngrams, logits_RWV))
        top = top.masked_fill(spare, -torch.inf)
        hits = (tokens == EOS) | (rows.lengths >= rows.limits)
        norm = rows.norms.gather(1, rows.lengths)
        ids = rows.ids.gather(1, _along(parents, rows.ids))
        ids.scatter_(2, rows.lengths[:, :, None].expand(-1, 2 * width, 1), tokens[:, :, None])

        # Candidates that have just ended compete with the hypotheses kept so far.
        just = hits & (rank < rows.beams)
        scores = top / norm
        scores = scores + (rows.finished.all(dim=1, keepdim=True) & rows.early) * NEVER
        scores = scores + ~rows.improvable * NEVER
        scores = scores + ~just * NEVER
        both = torch.cat([rows.best_scores, scores], dim=1)
        kept = torch.where(rows.done, rank[:width], both.topk(width)[1])
        best_scores = both.gather(1, kept).masked_fill(dead, -torch.inf)
        best_ids = torch.cat([rows.best_ids, ids], dim=1).gather(1, _along(kept, ids))
        lengths = (rows.lengths + 1).expand(just.shape)
        best_lengths = torch.cat([rows.best_lengths, lengths], dim=1).gather(1, kept)
        finished = torch.cat([rows.finished, just], dim=1).gather(1, kept) | dead

        # Those that have not go on.
        scores, chosen = (top + hits * NEVER).topk(width)
        scores = scores.masked_fill(dead, -torch.inf)
        parents, ids = parents.gather(1, chosen), ids.gather(1, _along(chosen, ids))

        # A request is done when no beam can still beat the worst hypothesis kept, or need not.
        worst = best_scores.masked_fill(dead, torch.inf).amin(dim=1, keepdim=True)
        worst = worst.expand(finished.shape).masked_fill(~finished, NEVER)
        better = (scores[:, :1] / norm > worst) & ~dead
        improvable = rows.improvable & better.any(dim=1, keepdim=True)
        stopped = finished.all(dim=1, keepdim=True) & rows.early
        done = rows.done | ~improvable | stopped | (hits | spare).all(dim=1, keepdim=True)

        rows.ids.copy_(ids)
        rows.scores.copy_(scores)
        rows.best_ids.copy_(best_ids)
        rows.best_scores.copy_(best_scores)
        rows.best_lengths.copy_(best_lengths)
        rows.finished.copy_(finished)
        rows.improvable.copy_(improvable)
        rows.done.copy_(done)
        rows.lengths.add_(rows.growth)
        return parents


def _best_candidates(rows: _Rows, ngrams: tuple[int, ...], logits_RWV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The 2W best continuations of each request: their scores, the beams they continue and their tokens (R, 2W)."""
    _, width, vocabulary = logits_RWV.shape
    log_probs = torch.log_softmax(logits_RWV.float(), dim=-1)
    for size in ngrams:
        _ban_repeats(log_probs, rows, size)
    top, index = log_probs.add_(rows.scores[:, :, None]).flatten(1).topk(2 * width)
    return top, index // vocabulary, index % vocabulary


def _along(index: Tensor, ids: Tensor) -> Tensor:
    """An index of beams (R, n), repeated for the tokens of `ids` (R, W, T+1)."""
    return index[:, :, None].expand(-1, -1, ids.shape[2])


def _ban_repeats(log_probs_RWV: Tensor, rows: _Rows, size: int) -> None:
    """Where a request must not repeat n-grams of this size: the tokens that would complete one get minus infinity."""
    ids = rows.ids[:, :, :-1]
    if ids.shape[2] < size:
        return
    windows = ids.unfold(2, size, 1)
    tail = (rows.lengths - torch.arange(size - 1, 0, -1, device=ids.device)).clamp(min=0)
    prefix = ids.gather(2, tail[:, None].expand(-1, ids.shape[1], -1))
    starts = torch.arange(windows.shape[2], device=ids.device)
    whole = (starts + size <= rows.lengths) & (rows.ngrams == size)
    match = (windows[..., :-1] == prefix[:, :, None]).all(-1) & whole[:, None]
    penalty = torch.full(match.shape, torch.inf, device=ids.device).masked_fill(match, -torch.inf)
    log_probs_RWV.scatter_reduce_(2, windows[..., -1], penalty, "amin")


def _force(rows: _Rows, top: Tensor, parents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The candidates (R, 2W) where the first and the last token are forced: every beam goes on with that token, at a
    log-probability of zero. Beams are in the order of their scores already."""
    width = rows.scores.shape[1]
    forced = rows.forced_bos.masked_fill(rows.lengths != 1, _NONE)
    forced = torch.where((rows.lengths == rows.limits) & (rows.forced_eos != _NONE), rows.forced_eos, forced)
    here = forced != _NONE
    own = torch.arange(2 * width, device=top.device) % width
    return (
        torch.where(here, F.pad(rows.scores, (0, width), value=-torch.inf), top),
        torch.where(here, own, parents),
        torch.where(here, forced, tokens),
    )
