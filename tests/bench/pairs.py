"""Both sides on one checkpoint, asked about the same pictures in turns. Not a benchmark: what `compare` measures with.

Whatever our side answers in float32 must be what the reference answers.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from tests.bench.checkpoints import PROMPT, SECOND_PROMPT, Size, questions
from tests.bench.contenders import Ours, Reference, Requests, Run, check_identical
from tests.bench.daemons import as_jpeg
from tests.bench.litserve_row import QUEUED, rounds
from tests.bench.rows import in_turns
from vision_server.engine.features import DEFAULT_BYTES

WARM_TOKENS = 4
FLOAT32 = "float32"
_COPIED_BYTES, _COPIES, _ROUNDS = 1 << 30, 10, 5

Turn = tuple[list[Run], Run]  # ours, one for each dtype that was asked for, and the reference's


class Bench:
    """Both sides on one checkpoint, and pictures that were not shown before."""

    def __init__(self, directory: Path, size: Size, tokens: int, device: str = "cpu", pairs: int | None = None) -> None:
        self._directory, self._size, self._device, self._pairs = directory, size, device, pairs
        self.tokens = tokens
        self.dtype = FLOAT32 if device == "cpu" else "float16"
        self._loaded: dict[str, Ours] = {}
        self.reference = Reference(directory, self.ours, torch.float32 if device == "cpu" else torch.float16)
        self._shown = 0

    @property
    def ours(self) -> Ours:
        """In the reference's dtype."""
        return self.ours_in(self.dtype)

    def ours_in(self, dtype: str) -> Ours:
        """Loaded when it is first asked for."""
        if dtype not in self._loaded:
            self._loaded[dtype] = Ours(self._directory, self._device, dtype)
        return self._loaded[dtype]

    def _pictures(self, count: int) -> int:
        """The first of `count` numbers of pictures that were not shown before."""
        self._shown += count
        return self._shown - count

    def captions(self, at_once: int, usual_pairs: int, dtypes: Sequence[str]) -> list[Turn]:
        """`at_once` requests to our side in each of `dtypes` and to the reference, as many times as was asked for, else
        as is usual."""
        firsts = [self._pictures(at_once) for _ in range(1 + (self._pairs or usual_pairs))]
        warm, *asked = (questions(self._size, first, at_once) for first in firsts)
        sides = [self.ours_in(dtype) for dtype in dtypes]
        for side in sides:
            side.run(warm, WARM_TOKENS)
        self.reference.run(warm[:1], WARM_TOKENS)
        found = self._in_turns(asked, lambda number: [side.run(asked[number], self.tokens) for side in sides])
        if FLOAT32 in dtypes:
            self._check(asked, [(ours[dtypes.index(FLOAT32)], reference) for ours, reference in found])
        return found

    def second_prompts(self, usual_pairs: int) -> list[Turn]:
        """The same for a second prompt on a picture that our side has just answered another prompt about."""
        count = self._pairs or usual_pairs
        first = self._pictures(count)
        before = [questions(self._size, first + number, 1) for number in range(count)]
        asked = [questions(self._size, first + number, 1, SECOND_PROMPT) for number in range(count)]
        keeping = Ours(self._directory, self._device, self.dtype, DEFAULT_BYTES)

        def ours(number: int) -> list[Run]:
            keeping.run(before[number], WARM_TOKENS)
            return [keeping.run(asked[number], self.tokens)]

        found = self._in_turns(asked, ours)
        if self.dtype == FLOAT32:
            self._check(asked, [(said, expected) for [said], expected in found])
        return found

    def _in_turns(self, asked: Sequence[Requests], ours: Callable[[int], list[Run]]) -> list[Turn]:
        return in_turns(len(asked), ours, lambda number: self.reference.run(asked[number], self.tokens))

    def _check(self, asked: Sequence[Requests], found: Sequence[tuple[Run, Run]]) -> None:
        for requests, (said, expected) in zip(asked, found, strict=True):
            check_identical(self.ours, self.reference, requests, self.tokens, said.ids, expected.ids)

    def behind_litserve(self, usual_pairs: int) -> list[tuple[float, float]]:
        """(ours, reference) in seconds for QUEUED pictures that are posted at once, both behind HTTP."""
        asked = [questions(self._size, self._pictures(QUEUED), QUEUED) for _ in range(self._pairs or usual_pairs)]
        files = [[as_jpeg(image) for image, _ in requests] for requests in asked]
        found = rounds(self._directory, self.tokens, torch.get_num_threads(), files)
        for pictures, (said, expected) in zip(files, found, strict=True):
            shown = [(Image.open(io.BytesIO(picture)).convert("RGB"), PROMPT) for picture in pictures]
            check_identical(self.ours, self.reference, shown, self.tokens, said.texts, expected.texts)
        return [(said.seconds, expected.seconds) for said, expected in found]

    def least_step_ms(self) -> float:
        """Reading once what a step of our decoder reads of its weights, at the speed this device copies memory."""
        text = self.ours.florence.network.text
        weight_bytes = sum(p.nbytes for p in [*text.decoder.parameters(), *text.lm_head.parameters()])
        source = torch.ones(_COPIED_BYTES, dtype=torch.uint8, device=self._device)
        target = torch.empty_like(source)
        times_s = []
        for _ in range(_ROUNDS):
            began_s = time.perf_counter()
            for _ in range(_COPIES):
                target.copy_(source)
            target[-1].item()  # waits for the device
            times_s.append(time.perf_counter() - began_s)
        bytes_per_s = 2 * _COPIES * _COPIED_BYTES / min(times_s)  # a copy reads and writes
        return 1000 * weight_bytes / bytes_per_s
