"""Adapters that PEFT itself has made of transformers' model: merged here, they answer as PEFT says, token for token."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import Florence2ForConditionalGeneration

from tests.engine.conftest import Pair
from tests.layouts import to_original, to_published, to_resaved
from tests.tiny import Search, oracle_generate, picture
from vision_server.engine import Florence
from vision_server.engine.weights import native_state
from vision_server.errors import CheckpointError

ASKED = [(picture(seed), "What does the image describe?") for seed in range(3)]
SEARCH = Search(max_new_tokens=25)
# PEFT warns of what it is asked here to do: biases, a flag that does not fit, a head that is tied
pytestmark = pytest.mark.filterwarnings("ignore")
TEXT_AND_VISION = r".*(q_proj|v_proj|fc1|qkv|convs\.1\.conv)"
PLAIN: dict[str, dict[str, Any]] = {
    "all-linear": {"target_modules": "all-linear"},
    "convolutions": {"target_modules": r".*convs\.\d\.conv"},
    "stabilised, ranks of their own": {
        "target_modules": TEXT_AND_VISION,
        "use_rslora": True,
        "rank_pattern": {"fc1": 5, r"decoder\.layers\.1\.self_attn\.q_proj": 2},
        "alpha_pattern": {"v_proj": 7},
    },
    "lengths (DoRA)": {"target_modules": TEXT_AND_VISION, "use_dora": True},
    "all biases": {"target_modules": ["q_proj"], "bias": "all"},
    "biases of what is adapted": {"target_modules": TEXT_AND_VISION, "bias": "lora_only"},
    "biases beside the matrices": {"target_modules": TEXT_AND_VISION, "lora_bias": True},
    "whole modules": {
        "target_modules": ["fc2"],
        "modules_to_save": ["image_projection", "image_proj_norm", "embed_positions", "layernorm_embedding", "lm_head"],
    },
    "a flag for another kind of layer": {"target_modules": ["fc2"], "fan_in_fan_out": True},
    "orthogonal to begin with": {"target_modules": ["fc2"], "init_lora_weights": "orthogonal", "r": 4},
}
LAYOUTS: dict[str, Callable[[Path], object]] = {
    "native": lambda directory: None,
    "original": to_original,
    "published": to_published,
    "re-saved": to_resaved,
}


def trained(base: Path, directory: Path, **options: Any) -> PeftModel:
    """An adapter of which every value is random, as if trained; PEFT's own model of it, not merged."""
    torch.manual_seed(5)
    options = {"r": 3, "lora_alpha": 6, **options}
    model = get_peft_model(Florence2ForConditionalGeneration.from_pretrained(base), LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.add_(torch.randn(parameter.shape) * (0.2 if parameter.dim() > 1 else 0.05))
            elif parameter.requires_grad:
                parameter.mul_(1 + 0.3 * torch.rand(parameter.shape))
    model.save_pretrained(directory)
    return model


def merged_by_peft(base: Path, adapter: Path) -> Florence2ForConditionalGeneration:
    loaded = PeftModel.from_pretrained(Florence2ForConditionalGeneration.from_pretrained(base), adapter)
    return loaded.merge_and_unload().eval()


def said(florence: Florence) -> list[list[int]]:
    return [answer.token_ids for answer in florence.generate(ASKED, max_new_tokens=SEARCH.max_new_tokens)]


@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN.keys())
def test_it_answers_as_the_model_that_peft_has_merged(one_pair: Pair, tmp_path: Path, options: dict[str, Any]) -> None:
    trained(one_pair.directory, tmp_path / "adapter", **options)
    oracle = merged_by_peft(one_pair.directory, tmp_path / "adapter")
    ours = Florence.load(one_pair.directory, "cpu", "float32", adapter=tmp_path / "adapter", plain=True)
    theirs = oracle.state_dict()
    for key, tensor in native_state(ours.network):
        torch.testing.assert_close(tensor, theirs[key], atol=2e-6, rtol=1e-5, msg=key)
    assert said(ours) == oracle_generate(oracle, ours, ASKED, SEARCH)
    assert said(ours) != said(one_pair.ours)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tied_head_that_was_adapted_is_one_of_its_own(one_pair: Pair, tmp_path: Path, layout: str) -> None:
    """As PEFT computes before it merges; its merging would change the embedding, which shares the head's memory."""
    model = trained(one_pair.directory, tmp_path / "adapter", target_modules=["lm_head", "fc2"])
    assert any("lm_head.base_layer" in key for key in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    base = Path(shutil.copytree(one_pair.directory, tmp_path / "base"))
    LAYOUTS[layout](base)
    ours = Florence.load(base, "cpu", "float32", adapter=tmp_path / "adapter")
    assert said(ours) == oracle_generate(model.eval(), one_pair.ours, ASKED, SEARCH)
    assert said(ours) != said(one_pair.ours)


def test_a_file_in_pytorchs_own_format(one_pair: Pair, tmp_path: Path) -> None:
    trained(one_pair.directory, tmp_path / "adapter", target_modules=["fc2"], bias="all")
    expected = said(Florence.load(one_pair.directory, "cpu", "float32", adapter=tmp_path / "adapter"))
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    assert said(Florence.load(one_pair.directory, "cpu", "float32", adapter=tmp_path / "adapter")) == expected


class Spoiler:
    """Runs something when it is unpickled by one who runs what a pickle says."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_something_runs_nothing(one_pair: Pair, tmp_path: Path) -> None:
    trained(one_pair.directory, tmp_path / "adapter", target_modules=["fc2"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    path.unlink()
    torch.save({"x": Spoiler(tmp_path / "spoilt")}, path.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin holds more than tensors"):
        Florence.load(one_pair.directory, "cpu", adapter=tmp_path / "adapter")
    assert not (tmp_path / "spoilt").exists()


def test_what_cannot_be_merged_is_refused_by_peft_too(one_pair: Pair, tmp_path: Path) -> None:
    """A convolution in groups: the product of its matrices has no groups."""
    trained(one_pair.directory, tmp_path / "adapter", r=8, target_modules=r".*blocks\.0\..*conv1")
    with pytest.raises(NotImplementedError):
        merged_by_peft(one_pair.directory, tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="a convolution in groups cannot be merged"):
        Florence.load(one_pair.directory, "cpu", adapter=tmp_path / "adapter")


@pytest.mark.parametrize(
    "options",
    [{"target_modules": ["fc2", "shared"]}, {"target_modules": ["fc2"], "trainable_token_indices": [5, 6]}],
    ids=["matrices", "rows"],
)
def test_the_word_embedding_is_refused(one_pair: Pair, tmp_path: Path, options: dict[str, Any]) -> None:
    trained(one_pair.directory, tmp_path / "adapter", **options)
    with pytest.raises(CheckpointError, match=r"changes an embedding|uses trainable_token_indices"):
        Florence.load(one_pair.directory, "cpu", adapter=tmp_path / "adapter")


@pytest.mark.parametrize("way", ["pissa", "olora"])
def test_an_adapter_that_has_taken_something_out_of_the_base_is_refused(
    one_pair: Pair, tmp_path: Path, way: str
) -> None:
    """PEFT merges it into other weights than the checkpoint's: W - B A of the beginning."""
    trained(one_pair.directory, tmp_path / "adapter", target_modules=["fc2"], init_lora_weights=way)
    with pytest.raises(CheckpointError, match=f"uses init_lora_weights {way}"):
        Florence.load(one_pair.directory, "cpu", adapter=tmp_path / "adapter")
    options = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert options["init_lora_weights"] == way
