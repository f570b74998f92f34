"""Draws the bundled sample pictures, `vision_server/samples/`: `python -m vision_server.training.samples`.

Unseen scenes, PNG and JPEG in turn, and in one JSON file beside them what is asked of each, with the right answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vision_server.training.drawing import draw
from vision_server.training.questions import PROMPTS, Question, ask
from vision_server.training.scenes import EVAL_SEEDS, Scene, scene

FOLDER = Path(__file__).parents[1] / "samples"
COUNT = 12
OF_EACH = ("<CAPTION>", "<OD>", "<OCR>")  # asked of every picture; the others take turns
IN_TURN = 7
SIDE_PX = 512
LAST_SEEDS = EVAL_SEEDS[-10_000:]  # far from those that the evaluation counts


def chosen_scenes() -> list[Scene]:
    """The first scenes that together show one to five things, plain and textured backgrounds, and four signs."""
    scenes: list[Scene] = []
    for seed in LAST_SEEDS:
        one, place = scene(seed, SIDE_PX), len(scenes)
        signed, textured = place % 3 == 1, place % 2 == 1
        fits = (one.sign is not None) == signed and one.background.startswith("plain") != textured
        if fits and len(one.items) == 1 + place % 5:
            scenes.append(one)
        if len(scenes) == COUNT:
            break
    return scenes


def questions(scenes: list[Scene]) -> list[list[Question]]:
    """What is asked of each picture; of all of them together every prompt several times."""
    others = [token for token in PROMPTS if token not in OF_EACH]
    asked = []
    for place, one in enumerate(scenes):
        turn = [others[(IN_TURN * place + step) % len(others)] for step in range(IN_TURN)]
        asked.append([ask(one, token) for token in (*OF_EACH, *turn)])
    return asked


def write_samples(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[dict[str, Any]] = []
    scenes = chosen_scenes()
    for number, (one, asked) in enumerate(zip(scenes, questions(scenes), strict=True), 1):
        name = f"scene-{number:02}.{'jpg' if number % 2 else 'png'}"
        draw(one).save(folder / name, quality=92)
        listed = [{"prompt": q.token, "text": q.text, "region": q.region, "truth": q.truth} for q in asked]
        pictures.append({"file": name, "asked": listed})
    text = json.dumps({"pictures": pictures}, indent=1) + "\n"
    (folder / "truth.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_samples(FOLDER)
