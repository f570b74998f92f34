"""Pixels and token ids against transformers' own image processor and tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast

from tests.engine.conftest import Pair
from tests.tiny import picture, tokenizer
from vision_server.engine.config import PreprocessConfig, read_config
from vision_server.engine.preprocess import to_pixels
from vision_server.errors import CheckpointError

CONFIG = Path(__file__).parents[1] / "data" / "config.base.json"
STOCK = {
    "do_center_crop": False,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": {"height": 768, "width": 768},
}


@pytest.mark.parametrize("size", [(80, 60), (768, 768), (2000, 31), (1, 1)])
def test_pixels_equal_the_reference(size: tuple[int, int]) -> None:
    image = picture(4, size)
    expected = CLIPImageProcessor(**STOCK)(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(to_pixels(image, PreprocessConfig()), expected, atol=2e-5, rtol=0)


def test_another_size_mean_and_filter_are_obeyed() -> None:
    image = picture(5)
    values = {**STOCK, "size": {"height": 96, "width": 64}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    expected = CLIPImageProcessor(**{**values, "resample": 2})(image, return_tensors="pt")["pixel_values"][0]
    config = PreprocessConfig(height=96, width=64, mean=(0.5,) * 3, std=(0.25,) * 3, resample=2)
    torch.testing.assert_close(to_pixels(image, config), expected, atol=2e-5, rtol=0)


def test_a_grey_picture_becomes_rgb() -> None:
    grey = Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10))
    assert to_pixels(grey, PreprocessConfig()).shape == (3, 768, 768)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_where_the_values_are_read_from(tmp_path: Path, name: str) -> None:
    shutil.copy(CONFIG, tmp_path / "config.json")
    assert read_config(tmp_path).preprocess == PreprocessConfig()
    values = {"size": {"height": 96, "width": 64}, "image_mean": [0.1, 0.2, 0.3], "resample": 2}
    written = values if name.startswith("pre") else {"image_processor": values}
    (tmp_path / name).write_text(json.dumps(written), encoding="utf-8")
    read = read_config(tmp_path).preprocess
    assert (read.height, read.width, read.mean, read.resample) == (96, 64, (0.1, 0.2, 0.3), 2)


def test_banned_phrases_are_read_where_transformers_looks_for_them(tmp_path: Path) -> None:
    shutil.copy(CONFIG, tmp_path / "config.json")
    path = tmp_path / "processor_config.json"
    for grounding, expected in (
        ({"phrase_grounding": {"banned_grounding_tokens": ["it", "a group"]}}, ("it", "a group")),
        ({"phrase_grounding": {}}, ()),
        ({}, ()),
        (None, ()),
    ):
        path.write_text(json.dumps({"post_processor_config": grounding}), encoding="utf-8")
        assert read_config(tmp_path).banned_grounding_tokens == expected
    for broken in ("it", [3], 7):
        wrong = {"post_processor_config": {"phrase_grounding": {"banned_grounding_tokens": broken}}}
        path.write_text(json.dumps(wrong), encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"processor_config\.json.*banned_grounding_tokens"):
            read_config(tmp_path)


def test_ids_equal_the_reference(one_pair: Pair) -> None:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer())
    for text in (
        "What does the image describe?",
        "",
        " two  spaces",
        "<OD>",
        "caf\u00e9 \u65e5\u672c \U0001f600",
        "a<loc_12><loc_7>",
    ):
        expected = [0, *fast(text, add_special_tokens=False)["input_ids"], 2]
        assert one_pair.ours.tokenizer.encode(text) == expected


def test_decoding_keeps_locations_and_drops_the_ends(one_pair: Pair) -> None:
    ids = one_pair.ours.tokenizer.encode("car<loc_12><loc_999> caf\u00e9")
    assert one_pair.ours.tokenizer.decode([0, 0, *ids, 2, 1, 1]) == "car<loc_12><loc_999> caf\u00e9"
