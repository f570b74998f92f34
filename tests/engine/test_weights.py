"""Checkpoint files: what is read, what is written, and the errors that name what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Florence2ForConditionalGeneration

from tests.engine.conftest import Pair
from tests.tiny import picture
from vision_server.engine import Florence
from vision_server.engine.weights import save_network
from vision_server.errors import CheckpointError

PROMPT = "What does the image describe?"


@pytest.fixture
def copy(one_pair: Pair, tmp_path: Path) -> Path:
    return Path(shutil.copytree(one_pair.directory, tmp_path / "copy"))


def change(directory: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(directory / "model.safetensors")
    edit(state)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})


def change_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def test_a_tied_checkpoint_stores_no_head(one_pair: Pair) -> None:
    assert "lm_head.weight" not in load_file(one_pair.directory / "model.safetensors")
    text = one_pair.ours.network.text
    assert text.lm_head.weight.data_ptr() == text.shared.weight.data_ptr()


def test_a_stored_head_is_used_and_not_tied(copy: Path) -> None:
    def store_head(state: dict[str, Tensor]) -> None:
        state["lm_head.weight"] = state["model.language_model.shared.weight"].flip(0).contiguous()

    change(copy, store_head)
    text = Florence.load(copy, device="cpu").network.text
    assert torch.equal(text.lm_head.weight, text.shared.weight.flip(0))


def test_what_we_write_transformers_reads(one_pair: Pair, copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    save_network(one_pair.ours.network, copy, torch.float32)
    state = Florence2ForConditionalGeneration.from_pretrained(copy).state_dict()
    for name, tensor in one_pair.oracle.state_dict().items():
        assert torch.equal(state[name], tensor), name
    again = Florence.load(copy, device="cpu")
    asked = [(picture(3), PROMPT)]
    assert again.generate(asked)[0].token_ids == one_pair.ours.generate(asked)[0].token_ids


KEY = "model.language_model.decoder.layers.1.encoder_attn.v_proj.weight"


def test_a_missing_key_is_named(copy: Path) -> None:
    change(copy, lambda state: state.pop(KEY))
    with pytest.raises(CheckpointError, match=KEY):
        Florence.load(copy)


def test_a_left_over_key_is_named(copy: Path) -> None:
    change(copy, lambda state: state.update({"model.extra.weight": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"model\.extra\.weight"):
        Florence.load(copy)


def test_a_wrong_shape_is_named(copy: Path) -> None:
    change(copy, lambda state: state.update({KEY: torch.zeros(3, 3)}))
    with pytest.raises(CheckpointError, match=rf"{KEY} has the shape"):
        Florence.load(copy)


def test_a_truncated_file_is_an_error(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        Florence.load(copy)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_or_broken_file_is_named(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"{broken")
    with pytest.raises(CheckpointError, match=name):
        Florence.load(copy)
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        Florence.load(copy)


@pytest.mark.parametrize(
    "edit",
    [
        lambda config: config.update(model_type="llama"),
        lambda config: config.pop("vision_config"),
        lambda config: config["text_config"].pop("d_model"),
        lambda config: config["vision_config"].update(depths=[1, 1]),
        lambda config: config["text_config"].update(activation_function="relu"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(copy: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    change_json(copy / "config.json", edit)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Florence.load(copy)


def test_an_error_shows_no_path(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        Florence.load(copy)
    assert str(copy) not in str(caught.value)


def test_forced_tokens_come_from_the_checkpoint(copy: Path) -> None:
    generation = Florence.load(copy, device="cpu").config.generation
    assert (generation.forced_bos_token_id, generation.forced_eos_token_id) == (0, 2)
    change_json(copy / "generation_config.json", lambda value: value.update(forced_bos_token_id=7))
    florence = Florence.load(copy, device="cpu")
    assert florence.generate([(picture(3), PROMPT)])[0].token_ids[0] == 7
