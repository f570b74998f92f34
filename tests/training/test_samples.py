"""The bundled pictures are what the generator draws, and their truth is the generator's."""

from __future__ import annotations

import json

from PIL import Image

from vision_server.training.drawing import draw
from vision_server.training.samples import COUNT, FOLDER, chosen_scenes
from vision_server.training.truth import truth


def test_the_bundled_samples_are_the_drawn_scenes() -> None:
    listed = json.loads((FOLDER / "truth.json").read_text(encoding="utf-8"))["pictures"]
    scenes = chosen_scenes()
    assert len(listed) == len(scenes) == COUNT
    assert {one["file"].rpartition(".")[2] for one in listed} == {"png", "jpg"}
    for row, one in zip(listed, scenes, strict=True):
        assert row["asked"]
        for question in row["asked"]:
            assert question["truth"] == truth(one, question["prompt"])
        with Image.open(FOLDER / row["file"]) as stored:
            assert stored.size == (one.size_px, one.size_px)
            if stored.format == "PNG":
                assert stored.tobytes() == draw(one).tobytes()
