"""How well a checkpoint answers on unseen drawn scenes: `python -m vision_server.training.evaluate --help`.

Through the engine as it is served, default beam search included. Figures: exact answers for texts; for boxes the F1 of
labels and the mean intersection over union of the matched ones; for signs exact words and the character error rate.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vision_server.engine import Florence
from vision_server.tasks import answer, of_token, sentence
from vision_server.tasks.regions import overlap
from vision_server.training.demo_config import PROMPTS
from vision_server.training.drawing import draw
from vision_server.training.scenes import EVAL_SEEDS, Scene, scene
from vision_server.training.truth import truth
from vision_server.training.words import WORDS

BATCH = 32


def answers_of(florence: Florence, scenes: list[Scene], token: str, num_beams: int) -> Iterator[str]:
    prompt = sentence(of_token(token), "", None, (1, 1))
    for first in range(0, len(scenes), BATCH):
        asked = [(draw(one), prompt) for one in scenes[first : first + BATCH]]
        for generation in florence.generate(asked, num_beams=num_beams, max_new_tokens=100):
            yield generation.text


def edit_distance(said: str, true: str) -> int:
    """Levenshtein's: insertions, deletions and substitutions of characters."""
    row = list(range(len(true) + 1))
    for i, left in enumerate(said, 1):
        before, row = row, [i]
        for j, right in enumerate(true, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (left != right)))
    return row[-1]


@dataclass
class BoxScore:
    """Labels are counted as a multiset a picture; boxes of one label are matched greedily by overlap."""

    said: int = 0
    true: int = 0
    common: int = 0
    overlap_sum: float = 0.0

    def add(self, said: dict[str, Any], true: dict[str, Any]) -> None:
        self.said += len(said["labels"])
        self.true += len(true["labels"])
        self.common += (Counter(said["labels"]) & Counter(true["labels"])).total()
        pairs = [
            (overlap(box, goal), i, j)
            for i, box in enumerate(said["bboxes"])
            for j, goal in enumerate(true["bboxes"])
            if said["labels"][i] == true["labels"][j]
        ]
        used: tuple[set[int], set[int]] = (set(), set())
        for share, i, j in sorted(pairs, reverse=True):
            if i not in used[0] and j not in used[1]:
                used[0].add(i)
                used[1].add(j)
                self.overlap_sum += share

    def figures(self) -> dict[str, float]:
        return {
            "labels_f1": 2 * self.common / max(1, self.said + self.true),
            "mean_iou": self.overlap_sum / max(1, self.common),
        }


def evaluate(florence: Florence, scenes: list[Scene], num_beams: int = 3) -> dict[str, dict[str, float]]:
    """Figures by prompt token; every share between 0 and 1."""
    figures: dict[str, dict[str, float]] = {}
    for token in PROMPTS:
        said = list(answers_of(florence, scenes, token, num_beams))
        true = [truth(one, token) for one in scenes]
        if token == "<OD>":
            score = BoxScore()
            for one, text, goal in zip(scenes, said, true, strict=True):
                size = (one.size_px, one.size_px)
                score.add(_boxes(token, text, size), _boxes(token, goal, size))
            figures[token] = score.figures()
        elif token == "<OCR>":
            figures[token] = _reading(scenes, said, true)
        else:
            figures[token] = {"exact": _share(text == goal for text, goal in zip(said, true, strict=True))}
    return figures


def _boxes(token: str, text: str, size: tuple[int, int]) -> dict[str, Any]:
    parsed = answer(token, text, size)
    assert isinstance(parsed, dict)
    return parsed


def _share(hits: Iterator[bool]) -> float:
    counted = list(hits)
    return sum(counted) / max(1, len(counted))


def _reading(scenes: list[Scene], said: list[str], true: list[str]) -> dict[str, float]:
    """Signs apart from scenes without text, words of the vocabulary apart from random letters."""
    rows = list(zip(scenes, said, true, strict=True))
    words = [(text, goal) for one, text, goal in rows if one.sign is not None and goal in WORDS]
    letters = [(text, goal) for one, text, goal in rows if one.sign is not None and goal not in WORDS]
    errors = sum(edit_distance(text, goal) for text, goal in letters)
    return {
        "exact": _share(text == goal for _, text, goal in rows),
        "words_exact": _share(text == goal for text, goal in words),
        "letters_character_error_rate": errors / max(1, sum(len(goal) for _, goal in letters)),
    }


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures as a Markdown table, a row each, shares in percent but for the mean overlap."""
    rows = ["| prompt | figure | value |", "|---|---|---|"]
    for token, values in figures.items():
        for name, value in values.items():
            shown = f"{value:.2f}" if name == "mean_iou" else f"{value:.1%}"
            rows.append(f"| `{token}` | {name.replace('_', ' ')} | {shown} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint on unseen drawn scenes.")
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[1] / "models" / "demo")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    florence = Florence.load(args.model, device=args.device, dtype="float32")
    began_s = time.perf_counter()
    figures = evaluate(florence, [scene(seed) for seed in EVAL_SEEDS[: args.scenes]], args.beams)
    sys.stdout.write(f"{table(figures)}\n")
    sys.stdout.write(f"{args.scenes} unseen scenes, {args.beams} beams, {time.perf_counter() - began_s:.0f} s\n")
    if args.json:
        report = {
            "command": "python -m vision_server.training.evaluate",
            "scenes": args.scenes,
            "beams": args.beams,
            "device": florence.device,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "figures": figures,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
