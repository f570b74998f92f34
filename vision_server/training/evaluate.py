"""How well a checkpoint answers on unseen drawn scenes: `python -m vision_server.training.evaluate --help`.

Through the engine as it is served, default beam search included: every prompt asked of every scene, with the text or
the region it takes. The counting is `scoring`'s.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from vision_server.engine import Florence
from vision_server.tasks import answer, of_token, shapes
from vision_server.training.drawing import draw
from vision_server.training.questions import PROMPTS, Question, ask
from vision_server.training.scenes import EVAL_SEEDS, Scene, scene
from vision_server.training.scoring import BoxScore, OutlineScore, exact, reading

BATCH = 32
MOST_TOKENS = 120  # the longest truth has about half of it
SHORT = 100  # scenes of the short form, which a test repeats


def answers_of(florence: Florence, scenes: list[Scene], questions: list[Question], num_beams: int = 3) -> list[str]:
    """The generated text for a question about each scene."""
    said = []
    for first in range(0, len(scenes), BATCH):
        pairs = zip(scenes[first : first + BATCH], questions[first : first + BATCH], strict=True)
        asked = [(draw(one), question.sentence(one.size_px)) for one, question in pairs]
        said += [one.text for one in florence.generate(asked, num_beams=num_beams, max_new_tokens=MOST_TOKENS)]
    return said


def evaluate(
    florence: Florence, scenes: list[Scene], num_beams: int = 3, prompts: Iterable[str] = PROMPTS
) -> dict[str, dict[str, float]]:
    """Figures by prompt token; every share between 0 and 1."""
    figures: dict[str, dict[str, float]] = {}
    for token in prompts:
        questions = [ask(one, token) for one in scenes]
        said = answers_of(florence, scenes, questions, num_beams)
        true = [question.truth for question in questions]
        kind = of_token(token).answer
        if kind == "text":
            figures[token] = {"exact": exact(zip(said, true, strict=True))}
            if token == "<OCR>":
                rows = zip(scenes, said, true, strict=True)
                figures[token] |= reading([(text, goal) for one, text, goal in rows if one.sign is not None])
            continue
        score = OutlineScore() if kind in ("quads", "polygons") else BoxScore()
        for one, text, goal in zip(scenes, said, true, strict=True):
            size = (one.size_px, one.size_px)
            score.add(shapes(answer(token, text, size)), shapes(answer(token, goal, size)), size)
        figures[token] = score.figures()
        if kind == "polygons":
            del figures[token]["labels"]  # Florence-2 writes none
    return figures


_SHOWN = {
    "exact": "exact {:.1%}",
    "words_exact": "words {:.1%}",
    "letters_character_error_rate": "letter errors {:.1%}",
    "f1": "F1 {:.1%}",
    "labels_f1": "labels {:.1%}",
    "mean_iou": "IoU {:.2f}",
    "labels": "text {:.1%}",
}


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures as a Markdown table, two prompts a row."""
    cells = []
    for token, values in figures.items():
        shown = [form.format(values[name]) for name, form in _SHOWN.items() if name in values]
        cells.append(f"`{token}` | {', '.join(shown)}")
    half = (len(cells) + 1) // 2
    cells += ["|"] * (2 * half - len(cells))
    rows = [f"| {left} | {right} |" for left, right in zip(cells[:half], cells[half:], strict=True)]
    return "\n".join(["| prompt | figures | prompt | figures |", "|---|---|---|---|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint on unseen drawn scenes.")
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[1] / "models" / "demo")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--prompts", nargs="+", default=PROMPTS, choices=PROMPTS, metavar="TOKEN")
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    florence = Florence.load(args.model, device=args.device, dtype=args.dtype)
    scenes = [scene(seed) for seed in EVAL_SEEDS[: args.scenes]]
    began_s = time.perf_counter()
    figures = evaluate(florence, scenes, args.beams, args.prompts)
    took_s = time.perf_counter() - began_s
    sys.stdout.write(f"{table(figures)}\n{len(scenes)} unseen scenes, {args.beams} beams, {took_s:.0f} s\n")
    if args.json:
        report: dict[str, Any] = {
            "command": "python -m vision_server.training.evaluate --json FILE",
            "scenes": len(scenes),
            "beams": args.beams,
            "device": florence.device,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "figures": figures,
            "short": {"scenes": SHORT, "figures": evaluate(florence, scenes[:SHORT], args.beams, args.prompts)},
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
