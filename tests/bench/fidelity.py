"""How many of 1,000 (picture, prompt, layout, beams) cases are token-identical to transformers' generate, in float32.

Random models of several shapes, each written in all three layouts, and the embedded checkpoint; 1, 3 and 5 beams, with
the ban of repeated 3-grams and without, prompts with and without text and region. `python -m tests.bench.fidelity`
writes results/fidelity.json and fails unless all are identical. A case may differ only where the reference itself had
two scores to choose between that lay less than 1e-5 apart; it is listed with that gap. tests/bench/test_fidelity.py
runs a short form.
"""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image
from transformers import Florence2ForConditionalGeneration

from tests.bench.machine import circumstances, write_result
from tests.layouts import to_published, to_resaved
from tests.tiny import SHAPES, Search, oracle_generate, picture, write_checkpoint
from vision_server.engine import Florence
from vision_server.tasks import of_token, sentence
from vision_server.training.drawing import draw
from vision_server.training.scenes import EVAL_SEEDS, scene

SMALL_GAP = 1e-5
EMBEDDED = Path(__file__).parents[2] / "vision_server" / "models" / "demo"
LAYOUTS: dict[str, Callable[[Path], object]] = {
    "native": lambda directory: None,
    "original": to_published,
    "re-saved": to_resaved,
}
MODELS = (*SHAPES, replace(SHAPES[0], name="another-seed", seed=7))
SEARCHES = [Search(beams, 24, ban) for beams in (1, 3, 5) for ban in (3, 0)]
BOX = [8.0, 6.0, 60.0, 40.0]
ASKED: tuple[tuple[str, str, str | list[float] | None], ...] = (
    ("<CAPTION>", "", None),
    ("<OD>", "", None),
    ("<GENERATE_TAGS>", "", None),
    ("<CAPTION_TO_PHRASE_GROUNDING>", "two cars and a tree", None),
    ("<REFERRING_EXPRESSION_SEGMENTATION>", "a red sign", None),
    ("<REGION_TO_CATEGORY>", "", BOX),
    ("<OPEN_VOCABULARY_DETECTION>", "fish", None),
    ("<REGION_TO_OCR>", "", "<loc_100><loc_90><loc_800><loc_700>"),
    ("<VQA>", "what is left of the house?", None),
)

Request = tuple[Image.Image, str]


@dataclass(frozen=True)
class Case:
    """One comparison; `gap` is the reference's own, looked for only where the answers differ."""

    model: str
    layout: str
    search: Search
    prompt: str
    expected: list[int]
    said: list[int]
    gap: float | None = None

    @property
    def identical(self) -> bool:
        return self.said == self.expected

    @property
    def excused(self) -> bool:
        return self.gap is not None and self.gap < SMALL_GAP


def requests(count: int, first: int, pictures: Callable[[int], Image.Image]) -> list[Request]:
    """`count` pictures from number `first` on, each with the next prompt in turn."""
    asked = []
    for number in range(first, first + count):
        image, (token, text, region) = pictures(number), ASKED[number % len(ASKED)]
        asked.append((image, sentence(of_token(token), text, region, image.size)))
    return asked


def compare(
    model: str,
    oracle: Florence2ForConditionalGeneration,
    ours: dict[str, Florence],
    asked: Iterator[list[Request]],
    searches: list[Search],
) -> Iterator[Case]:
    """A batch of requests a search, through the reference once and through ours once a layout."""
    native = ours["native"]
    for search, batch in zip(searches, asked, strict=False):
        expected = oracle_generate(oracle, native, batch, search)
        for layout, florence in ours.items():
            answers = florence.generate(batch, **asdict(search))
            for request, true, answer in zip(batch, expected, answers, strict=True):
                case = Case(model, layout, search, request[1], true, answer.token_ids)
                if not case.identical:
                    case = replace(case, gap=reference_gap(oracle, native, request, search))
                yield case


def reference_gap(oracle: Florence2ForConditionalGeneration, ours: Florence, request: Request, search: Search) -> float:
    """The least distance between two neighbouring scores among which the reference's search had to choose."""
    least = math.inf
    top_k, arg_max = torch.topk, torch.argmax

    def note(scores: torch.Tensor, count: int) -> None:
        nonlocal least
        values = top_k(scores.float(), min(count + 1, scores.shape[-1])).values
        values = values.masked_fill(values < -1e8, math.nan)  # what was ruled out is no choice
        gaps = (values[..., :-1] - values[..., 1:]).flatten()
        least = min([least, *gaps[~gaps.isnan()].tolist()])

    def watched_top_k(scores: torch.Tensor, k: int, *rest: Any, **more: Any) -> Any:
        note(scores, k)
        return top_k(scores, k, *rest, **more)

    def watched_arg_max(scores: torch.Tensor, *rest: Any, **more: Any) -> Any:
        note(scores, 1)
        return arg_max(scores, *rest, **more)

    with mock.patch("torch.topk", watched_top_k), mock.patch("torch.argmax", watched_arg_max):
        oracle_generate(oracle, ours, [request], search)
    return least


def random_cases(batch: int, rounds: int, models: int) -> Iterator[Case]:
    """`batch` requests for each of SEARCHES, `rounds` times, on each of the first models in all three layouts."""
    for shape in MODELS[:models]:
        with tempfile.TemporaryDirectory() as folder:
            oracle = write_checkpoint(Path(folder) / "native", shape)
            ours = {}
            for layout, change in LAYOUTS.items():
                directory = Path(folder) / layout
                if layout != "native":
                    shutil.copytree(Path(folder) / "native", directory)
                change(directory)
                ours[layout] = Florence.load(directory, "cpu", "float32")
            firsts = itertools.count(0, batch)
            asked = (requests(batch, 1000 * shape.seed + first, picture) for first in firsts)
            yield from compare(shape.name, oracle, ours, asked, SEARCHES * rounds)


def embedded_cases(batch: int, rounds: int) -> Iterator[Case]:
    ours = {"native": Florence.load(EMBEDDED, "cpu", "float32")}
    oracle = Florence2ForConditionalGeneration.from_pretrained(EMBEDDED, dtype=torch.float32).eval()
    asked = (
        requests(batch, first, lambda number: draw(scene(EVAL_SEEDS[number]))) for first in itertools.count(0, batch)
    )
    yield from compare("embedded", oracle, ours, asked, SEARCHES * rounds)


def all_cases() -> Iterator[Case]:
    """1,008: four random models x three layouts x six searches x twelve, and the embedded one with 6 x 24."""
    yield from random_cases(batch=12, rounds=1, models=len(MODELS))
    yield from embedded_cases(batch=12, rounds=2)


def short_cases() -> Iterator[Case]:
    """60: one random model in three layouts and the embedded one."""
    yield from random_cases(batch=3, rounds=1, models=1)
    yield from embedded_cases(batch=1, rounds=1)


def report(cases: list[Case]) -> dict[str, Any]:
    """Counts, and every case that differs."""

    def share(key: Callable[[Case], str]) -> dict[str, str]:
        every, same = Counter(map(key, cases)), Counter(key(case) for case in cases if case.identical)
        return {name: f"{same[name]} of {every[name]}" for name in every}

    return {
        "cases": len(cases),
        "identical": sum(case.identical for case in cases),
        "different_answers": len({tuple(case.expected) for case in cases}),
        "by_model": share(lambda case: case.model),
        "by_layout": share(lambda case: case.layout),
        "by_beams": share(lambda case: str(case.search.num_beams)),
        "by_3_gram_ban": share(lambda case: "on" if case.search.no_repeat_ngram_size else "off"),
        "differing": [asdict(case) | {"excused": case.excused} for case in cases if not case.identical],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Token identity with transformers' generate.")
    parser.add_argument("--short", action="store_true", help="some 60 cases, written nowhere")
    args = parser.parse_args()
    cases = list(short_cases() if args.short else all_cases())
    found = report(cases)
    sys.stdout.write(f"{found['identical']} of {found['cases']} cases are token-identical to transformers\n")
    for case in found["differing"]:
        sys.stdout.write(f"differs, the reference's own gap being {case['gap']:.1e}: {case}\n")
    if not args.short:
        about = circumstances("python -m tests.bench.fidelity", "torch", "transformers", "tokenizers")
        sys.stdout.write(f"{write_result('fidelity', {**about, 'dtype': 'float32', **found})}\n")
    sys.exit(0 if all(case.identical or case.excused for case in cases) else 1)


if __name__ == "__main__":
    main()
