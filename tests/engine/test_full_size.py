"""Checkpoints of true base and large size, with random values: strict, sparing with memory, and read as transformers
reads them. Each is written and measured in a few seconds and deleted at once."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Florence2ForConditionalGeneration

from tests.bench.load import in_a_process_of_its_own, write_checkpoint
from tests.full_size import shapes, write_description, write_safetensors
from tests.tiny import Search, oracle_generate, picture
from vision_server.engine import Florence
from vision_server.engine.names import Layout, keys_of

FORMS = (("base", "safetensors", "float16"), ("base", "bin", "float16"), ("large", "safetensors", "float16"))
MOST_PEAK = 1.15  # of the tensors in the target dtype
SHARED = "language_model.model.shared.weight"


@pytest.fixture(scope="module", params=FORMS, ids="-".join)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("full")
    write_checkpoint(directory, *request.param)
    yield directory
    shutil.rmtree(directory)  # pytest would keep gigabytes for three runs


@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="the resident set's high-water mark is read from /proc")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_load_holds_little_more_than_the_tensors(checkpoint: Path, dtype: str) -> None:
    """Measured in a process of its own: the whole resident set, mapped pages of the file included (see tests.bench)."""
    measured = in_a_process_of_its_own(checkpoint, dtype, pairs=0)
    ratio = measured["peak_bytes"] / measured["tensor_bytes"]
    assert measured["tensor_bytes"] > 0.5e9
    # Below one, the tensors would not be in memory at all, and the first request would wait for the disk.
    assert 1.0 <= ratio <= MOST_PEAK, measured


@pytest.mark.parametrize(("size", "positions", "head"), [("base", 1024, True), ("large", 4096, False)])
def test_every_tensor_of_a_full_size_checkpoint_is_where_it_belongs(
    tmp_path: Path, size: str, positions: int, head: bool
) -> None:
    """669 and 921 keys, less the embedding's copies (and the head): none missing, none left over, values and all."""
    write_description(tmp_path, size, positions)
    path = write_safetensors(tmp_path, size, head=head, positions=positions)
    florence = Florence.load(tmp_path, "cpu", "float16")
    path_keys = set(shapes(size, head=head))
    try:
        with safe_open(path, "pt") as file:
            for name, tensor in florence.network.state_dict().items():
                keys = keys_of(name, Layout.ORIGINAL) if head or name != "text.lm_head.weight" else [SHARED]
                for key, part in zip(keys, tensor.chunk(len(keys)), strict=True):
                    stored = file.get_tensor(key)
                    assert torch.equal(part, stored.T if key == "image_projection" else stored), key
                    path_keys.discard(key)
    finally:
        path.unlink()
    assert path_keys == {"language_model.final_logits_bias"}
    assert florence.max_positions == positions
    assert florence.image_tokens == 577
    text = florence.network.text
    assert (text.lm_head.weight.data_ptr() == text.shared.weight.data_ptr()) is not head


# Original -> native, as it was found by running both; written apart from the engine's table, which goes the other way.
TO_NATIVE = (
    (r"^image_projection$", "model.multi_modal_projector.image_projection.weight"),
    (r"^image_pos_embed\.", "model.multi_modal_projector.image_position_embed."),
    (r"^(image_proj_norm|visual_temporal_embed)\.", r"model.multi_modal_projector.\1."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^vision_tower\.", "model.vision_tower."),
    (r"(convs\.\d)\.proj\.", r"\1.conv."),
    (r"\.(conv[12])\.fn\.dw\.", r".\1."),
    (r"\.(?:window|channel)_attn\.norm\.", ".norm1."),
    (r"_attn\.fn\.", "_attn."),
    (r"\.ffn\.norm\.", ".norm2."),
    (r"\.ffn\.fn\.net\.", ".ffn."),
)


def to_native(directory: Path) -> dict[str, Tensor]:
    state = load_file(directory / "model.safetensors")
    del state["language_model.final_logits_bias"]
    state["image_projection"] = state["image_projection"].T.contiguous()
    for pattern, native in TO_NATIVE:
        state = {re.sub(pattern, native, key): tensor for key, tensor in state.items()}
    return state


def to_native_config(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    vision = config["vision_config"]
    vision["embed_dim"] = vision.pop("dim_embed")
    vision["max_position_embeddings"] = vision.pop("image_pos_embed")["max_pos_embeddings"]
    vision["max_temporal_embeddings"] = vision.pop("visual_temporal_embedding")["max_temporal_embeddings"]
    vision["model_type"] = "florence_vision"
    config["text_config"]["model_type"] = "bart"
    return config


@pytest.mark.timeout(1800)  # seconds of computing, which a busy machine may spread over many minutes
def test_full_size_base_answers_as_transformers_does(tmp_path: Path) -> None:
    """A picture of 768 px, the original layout here and the native one there."""
    original, native = tmp_path / "original", tmp_path / "native"
    original.mkdir()
    native.mkdir()
    write_description(original, "base")
    config = json.loads((original / "config.json").read_text(encoding="utf-8"))
    # transformers needs an id for the picture's places; the last row is one that the tokenizer of this test never gives
    config["image_token_id"] = config["text_config"]["vocab_size"] - 1
    (original / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_safetensors(original, "base", head=False)
    try:
        ours = Florence.load(original, "cpu", "float32")
        save_file(to_native(original), native / "model.safetensors", metadata={"format": "pt"})
        (native / "config.json").write_text(json.dumps(to_native_config(original)), encoding="utf-8")
        oracle = Florence2ForConditionalGeneration.from_pretrained(native, dtype=torch.float32).eval()
    finally:
        shutil.rmtree(original)
        shutil.rmtree(native)
    asked = [(picture(7, (640, 480)), "What does the image describe?")]
    expected = oracle_generate(oracle, ours, asked, Search(max_new_tokens=8))
    assert len(set(expected[0])) > 3
    assert ours.generate(asked, max_new_tokens=8)[0].token_ids == expected[0]
