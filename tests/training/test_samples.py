"""The bundled pictures are what the generator draws, and their truth is the generator's."""

from __future__ import annotations

import json
from collections import Counter

from PIL import Image

from vision_server.training.drawing import draw
from vision_server.training.questions import PROMPTS
from vision_server.training.samples import COUNT, FOLDER, chosen_scenes, questions


def test_the_bundled_samples_are_the_drawn_scenes() -> None:
    listed = json.loads((FOLDER / "truth.json").read_text(encoding="utf-8"))["pictures"]
    scenes = chosen_scenes()
    assert len(listed) == len(scenes) == COUNT
    assert {one["file"].rpartition(".")[2] for one in listed} == {"png", "jpg"}
    for row, one, asked in zip(listed, scenes, questions(scenes), strict=True):
        expected = [(q.token, q.text, q.region and list(q.region), q.truth) for q in asked]
        assert [(q["prompt"], q["text"], q["region"], q["truth"]) for q in row["asked"]] == expected
        with Image.open(FOLDER / row["file"]) as stored:
            assert stored.size == (one.size_px, one.size_px)
            if stored.format == "PNG":
                assert stored.tobytes() == draw(one).tobytes()


def test_every_prompt_is_asked_of_three_pictures_at_least() -> None:
    counts = Counter(question.token for asked in questions(chosen_scenes()) for question in asked)
    assert set(counts) == set(PROMPTS)
    assert min(counts.values()) >= 3
