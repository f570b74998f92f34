"""Draws the bundled sample pictures, `vision_server/samples/`: `python -m vision_server.training.samples`.

Unseen scenes, PNG and JPEG in turn, their truth for every prompt in one JSON file beside them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vision_server.training.demo_config import PROMPTS
from vision_server.training.drawing import draw
from vision_server.training.scenes import EVAL_SEEDS, Scene, scene
from vision_server.training.truth import truth

FOLDER = Path(__file__).parents[1] / "samples"
COUNT = 12
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


def write_samples(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[dict[str, Any]] = []
    for number, one in enumerate(chosen_scenes(), 1):
        name = f"scene-{number:02}.{'jpg' if number % 2 else 'png'}"
        draw(one).save(folder / name, quality=92)
        asked = [{"prompt": token, "text": "", "region": None, "truth": truth(one, token)} for token in PROMPTS]
        pictures.append({"file": name, "asked": asked})
    text = json.dumps({"pictures": pictures}, indent=2) + "\n"
    (folder / "truth.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_samples(FOLDER)
