"""Checkpoint files: what is read, what is written, and the errors that name what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Florence2ForConditionalGeneration

from tests.engine.conftest import Pair
from tests.layouts import change_json, change_state
from tests.tiny import picture
from vision_server.engine import Florence
from vision_server.engine.weights import save_network
from vision_server.errors import CheckpointError

PROMPT = "What does the image describe?"


@pytest.fixture
def copy(one_pair: Pair, tmp_path: Path) -> Path:
    return Path(shutil.copytree(one_pair.directory, tmp_path / "copy"))


def test_a_tied_checkpoint_stores_no_head(one_pair: Pair) -> None:
    assert "lm_head.weight" not in load_file(one_pair.directory / "model.safetensors")
    text = Florence.load(one_pair.directory, device="cpu", plain=True).network.text
    assert text.lm_head.weight.data_ptr() == text.shared.weight.data_ptr()


def test_a_stored_head_is_used_and_not_tied(copy: Path) -> None:
    def store_head(state: dict[str, Tensor]) -> None:
        state["lm_head.weight"] = state["model.language_model.shared.weight"].flip(0).contiguous()

    change_state(copy, store_head)
    text = Florence.load(copy, device="cpu", plain=True).network.text
    assert torch.equal(text.lm_head.weight, text.shared.weight.flip(0))


def test_what_we_write_transformers_reads(one_pair: Pair, copy: Path) -> None:
    network = Florence.load(copy, device="cpu", plain=True).network
    (copy / "model.safetensors").unlink()
    save_network(network, copy, torch.float32)
    state = Florence2ForConditionalGeneration.from_pretrained(copy).state_dict()
    for name, tensor in one_pair.oracle.state_dict().items():
        assert torch.equal(state[name], tensor), name
    again = Florence.load(copy, device="cpu")
    asked = [(picture(3), PROMPT)]
    assert again.generate(asked)[0].token_ids == one_pair.ours.generate(asked)[0].token_ids


KEY = "model.language_model.decoder.layers.1.encoder_attn.v_proj.weight"


def test_a_missing_key_is_named(copy: Path) -> None:
    change_state(copy, lambda state: state.pop(KEY))
    with pytest.raises(CheckpointError, match=rf"model\.safetensors lacks the key {KEY}"):
        Florence.load(copy)


def test_a_left_over_key_is_named(copy: Path) -> None:
    change_state(copy, lambda state: state.update({"model.extra.weight": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors has a key .*: model\.extra\.weight"):
        Florence.load(copy)


def test_a_wrong_shape_is_named(copy: Path) -> None:
    change_state(copy, lambda state: state.update({KEY: torch.zeros(3, 3)}))
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {KEY} has the shape"):
        Florence.load(copy)


@pytest.mark.parametrize("kind", [torch.int8, torch.bool])
def test_weights_that_are_no_floats_are_named(copy: Path, kind: torch.dtype) -> None:
    """A quantised checkpoint is no checkpoint of ours, and its integers are no weights."""
    change_state(copy, lambda state: state.update({KEY: state[KEY].to(kind)}))
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {KEY} is {kind}"):
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


CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another-model": (lambda c: c.update(model_type="llama"), "model_type is not florence2"),
    "no-vision-part": (lambda c: c.pop("vision_config"), "no vision_config"),
    "no-text-part": (lambda c: c.update(text_config=7), "no vision_config and text_config"),
    "no-width": (lambda c: c["text_config"].pop("d_model"), r"needs: text_config\.d_model"),
    "stages-differ": (lambda c: c["vision_config"].update(depths=[1, 1]), "per-stage lists"),
    "another-activation": (lambda c: c["text_config"].update(activation_function="relu"), "other than gelu"),
    "a-text-for-a-number": (
        lambda c: c["text_config"].update(d_model="32"),
        r"text_config\.d_model has the wrong type",
    ),
    "a-number-for-a-list": (lambda c: c["vision_config"].update(depths=1), r"vision_config\.depths has the wrong type"),
    "a-list-for-a-number": (lambda c: c["vision_config"].update(window_size=[4]), "window_size has the wrong type"),
    "a-yes-for-a-number": (lambda c: c["vision_config"].update(window_size=True), "window_size has the wrong type"),
    "negative": (lambda c: c["text_config"].update(encoder_layers=-1), r"text_config\.encoder_layers cannot be -1"),
    "none-at-all": (
        lambda c: c["text_config"].update(decoder_attention_heads=0),
        "decoder_attention_heads cannot be 0",
    ),
    "absurd": (lambda c: c["text_config"].update(vocab_size=1 << 40), r"text_config\.vocab_size cannot be"),
    "heads-do-not-fit": (lambda c: c["text_config"].update(decoder_attention_heads=5), "heads does not divide d_model"),
    "groups-do-not-fit": (lambda c: c["vision_config"].update(num_groups=[3, 3, 3, 3]), "num_groups does not divide"),
    "widths-differ": (lambda c: c["vision_config"].update(projection_dim=31), "projection_dim is not"),
    "no-room-for-a-picture": (lambda c: c["text_config"].update(max_position_embeddings=8), "leaves no room"),
    "no-place-for-a-picture": (lambda c: c["vision_config"].update(max_position_embeddings=1), "has no place"),
}


@pytest.mark.parametrize(("edit", "words"), CONFIGS.values(), ids=CONFIGS.keys())
def test_a_config_that_is_not_ours_is_refused(copy: Path, edit: Callable[[dict[str, Any]], object], words: str) -> None:
    change_json(copy / "config.json", edit)
    with pytest.raises(CheckpointError, match=words) as caught:
        Florence.load(copy)
    assert "config" in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [{"size": {"height": "x"}}, {"size": {"height": 0}}, {"image_mean": 3}, {"image_mean": [1.0]}, {"resample": 9}],
    ids=str,
)
def test_a_broken_preprocessor_config_is_named(copy: Path, values: dict[str, Any]) -> None:
    change_json(copy / "preprocessor_config.json", lambda config: config.update(values))
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        Florence.load(copy)


@pytest.mark.parametrize("token", ["<s>", -1, 1 << 30])
def test_a_forced_token_that_is_no_token_is_named(copy: Path, token: object) -> None:
    change_json(copy / "generation_config.json", lambda config: config.update(forced_bos_token_id=token))
    with pytest.raises(CheckpointError, match="forced_bos_token_id"):
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
