"""LoRA adapters, written by hand as PEFT writes them: merged at load, or refused by name."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.engine.conftest import Pair
from tests.layouts import change_json, change_state, to_published, to_resaved
from tests.tiny import Shape, picture, write_checkpoint
from vision_server.engine import Florence
from vision_server.engine.linear import LEAST_INT8_INPUTS, int8, works
from vision_server.errors import CheckpointError

ASKED = [(picture(seed), "What does the image describe?") for seed in range(4)]
RANK, ALPHA = 3, 12
DECODER = "model.language_model.decoder.layers.1"
VISION = "model.vision_tower.blocks.2.1"
# Native name -> original name, of one module of each kind; the projection is no module in the original.
MODULES = {
    f"{DECODER}.self_attn.q_proj": "language_model.model.decoder.layers.1.self_attn.q_proj",
    f"{DECODER}.self_attn.v_proj": "language_model.model.decoder.layers.1.self_attn.v_proj",
    f"{DECODER}.encoder_attn.k_proj": "language_model.model.decoder.layers.1.encoder_attn.k_proj",
    f"{DECODER}.fc1": "language_model.model.decoder.layers.1.fc1",
    f"{VISION}.spatial_block.window_attn.qkv": "vision_tower.blocks.2.1.spatial_block.window_attn.fn.qkv",
    f"{VISION}.channel_block.ffn.fc2": "vision_tower.blocks.2.1.channel_block.ffn.fn.net.fc2",
    "model.vision_tower.convs.1.conv": "vision_tower.convs.1.proj",
}
LAYOUTS: dict[str, Callable[[Path], object]] = {
    "native": lambda directory: None,
    "published": to_published,
    "re-saved": to_resaved,
}


@pytest.fixture
def base(one_pair: Pair, tmp_path: Path) -> Path:
    return Path(shutil.copytree(one_pair.directory, tmp_path / "base"))


def matrices(shapes: dict[str, torch.Size], rank: int = RANK) -> dict[str, Tensor]:
    """Key -> random A (r, in, kernel) or B (out, r, 1, 1), for weights of the given shapes by module."""
    generator = torch.Generator().manual_seed(3)
    made = {}
    for module, shape in shapes.items():
        for side, size in (("A", (rank, *shape[1:])), ("B", (shape[0], rank, *(1 for _ in shape[2:])))):
            made[f"base_model.model.{module}.lora_{side}.weight"] = torch.randn(size, generator=generator) * 0.3
    return made


def write_adapter(directory: Path, state: dict[str, Tensor], **values: Any) -> Path:
    directory.mkdir(exist_ok=True)
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": None,
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.05,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "microsoft/Florence-2-base",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config | values), encoding="utf-8")
    save_file(state, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    return directory


def shapes_of(base: Path, modules: list[str]) -> dict[str, torch.Size]:
    state = load_file(base / "model.safetensors")
    return {module: state[f"{module}.weight"].shape for module in modules}


def delta(state: dict[str, Tensor], module: str, scale: float) -> Tensor:
    a, b = (state[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
    if a.dim() == 2:
        return scale * (b @ a)
    return scale * torch.einsum("or,rikl->oikl", b[:, :, 0, 0], a)


def merged_beforehand(base: Path, state: dict[str, Tensor], scales: dict[str, float]) -> Path:
    """A native checkpoint whose weights have been changed by hand."""
    directory = Path(shutil.copytree(base, base.with_name("merged")))

    def merge(weights: dict[str, Tensor]) -> None:
        for module, scale in scales.items():
            weights[f"{module}.weight"] += delta(state, module, scale)

    change_state(directory, merge)
    return directory


def answers(florence: Florence) -> list[list[int]]:
    return [answer.token_ids for answer in florence.generate(ASKED, max_new_tokens=30)]


@pytest.mark.parametrize("names", ["native", "original"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_merged_adapter_answers_as_weights_merged_beforehand(
    one_pair: Pair, base: Path, tmp_path: Path, layout: str, names: str
) -> None:
    """Its modules named as either layout names them, the checkpoint in any."""
    state = matrices(shapes_of(base, list(MODULES)))
    merged = merged_beforehand(base, state, dict.fromkeys(MODULES, ALPHA / RANK))
    expected = Florence.load(merged, "cpu", "float32", plain=True)
    if names == "original":
        for native, original in MODULES.items():
            state = {key.replace(f".{native}.", f".{original}."): tensor for key, tensor in state.items()}
    LAYOUTS[layout](base)
    adapted = Florence.load(base, "cpu", "float32", adapter=write_adapter(tmp_path / "adapter", state), plain=True)
    for name, tensor in expected.network.state_dict().items():
        torch.testing.assert_close(adapted.network.state_dict()[name], tensor, atol=1e-6, rtol=1e-6, msg=name)
    assert answers(adapted) == answers(expected)
    assert answers(adapted) != answers(one_pair.ours)


def test_ranks_and_alphas_of_their_own_and_stabilised_ranks(base: Path, tmp_path: Path) -> None:
    query, value, wide = f"{DECODER}.self_attn.q_proj", f"{DECODER}.self_attn.v_proj", f"{DECODER}.fc1"
    state = matrices(shapes_of(base, [query, value])) | matrices(shapes_of(base, [wide]), rank=5)
    patterns = {"rank_pattern": {"fc1": 5}, "alpha_pattern": {r"layers\.\d+\.self_attn\.v_proj": 7}}
    adapter = write_adapter(tmp_path / "adapter", state, use_rslora=True, **patterns)
    scales = {query: ALPHA / math.sqrt(RANK), value: 7 / math.sqrt(RANK), wide: ALPHA / math.sqrt(5)}
    expected = Florence.load(merged_beforehand(base, state, scales), "cpu", "float32", plain=True).network.state_dict()
    adapted = Florence.load(base, "cpu", "float32", adapter=adapter, plain=True)
    for name, tensor in adapted.network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6, msg=name)


def test_the_projection_and_a_head_that_was_tied(base: Path, tmp_path: Path) -> None:
    """The head becomes a tensor of its own; the embedding stays what it is."""
    projection = "model.multi_modal_projector.image_projection"
    weights = load_file(base / "model.safetensors")
    shapes = shapes_of(base, [projection]) | {"lm_head": weights["model.language_model.shared.weight"].shape}
    state = matrices(shapes)
    to_published(base)
    adapter = write_adapter(tmp_path / "adapter", state)
    adapted = Florence.load(base, "cpu", "float32", adapter=adapter, plain=True).network
    shared = weights["model.language_model.shared.weight"]
    assert torch.equal(adapted.text.shared.weight, shared)
    torch.testing.assert_close(adapted.text.lm_head.weight, shared + delta(state, "lm_head", ALPHA / RANK))
    expected = weights[f"{projection}.weight"] + delta(state, projection, ALPHA / RANK)
    torch.testing.assert_close(adapted.projector.image_projection.weight, expected)


def test_it_is_merged_before_the_weights_are_rounded(base: Path, tmp_path: Path) -> None:
    query = f"{DECODER}.self_attn.q_proj"
    state = matrices(shapes_of(base, [query]))
    whole = load_file(base / "model.safetensors")[f"{query}.weight"] + delta(state, query, ALPHA / RANK)
    adapter = write_adapter(tmp_path / "adapter", {key: tensor.bfloat16() for key, tensor in state.items()})
    exact = write_adapter(tmp_path / "exact", state)
    layers = Florence.load(base, "cpu", "bfloat16", adapter=exact, plain=True).network.text.decoder.layers
    ours = layers[1].self_attn.qkv.weight[: len(whole)]  # type: ignore[union-attr, index]
    assert torch.equal(ours, whole.bfloat16())
    assert Florence.load(base, "cpu", "float16", adapter=adapter).dtype == "float16"


@pytest.mark.skipif(not works(int8, torch.float32), reason="this processor has no 8-bit dot products")
def test_with_8_bit_weights_it_is_merged_before_they_are_quantised(tmp_path: Path) -> None:
    """The answers are those of merged weights in 8 bits, and no longer those of the checkpoint."""
    wide = Shape("wide", vision={"projection_dim": LEAST_INT8_INPUTS}, text={"d_model": LEAST_INT8_INPUTS})
    base = tmp_path / "base"
    base.mkdir()
    write_checkpoint(base, wide)
    state = matrices(shapes_of(base, list(MODULES)))
    merged = merged_beforehand(base, state, dict.fromkeys(MODULES, ALPHA / RANK))
    adapted = Florence.load(base, "cpu", "int8", adapter=write_adapter(tmp_path / "adapter", state))
    assert adapted.dtype == "int8"
    assert answers(adapted) == answers(Florence.load(merged, "cpu", "int8"))
    assert answers(adapted) != answers(Florence.load(base, "cpu", "int8"))


Edit = Callable[[dict[str, Tensor]], object]
QUERY = f"base_model.model.{DECODER}.self_attn.q_proj"
NOWHERE, WORDS = "base_model.model.model.nowhere", "base_model.model.model.language_model.shared"
STATES: dict[str, tuple[Edit, str]] = {
    "unknown-module": (
        lambda s: s.update(
            {f"{NOWHERE}.lora_{side}.weight": s[f"{QUERY}.lora_{side}.weight"].clone() for side in "AB"}
        ),
        r"adapter_model\.safetensors changes what this Florence-2 does not have: model\.nowhere\.weight\.",
    ),
    "many-unknown-tensors": (
        lambda s: s.update({f"base_model.model.other.{i}.bias": torch.zeros(3) for i in range(5)}),
        r"does not have: other\.0\.bias, other\.1\.bias, other\.2\.bias and 2 more\.",
    ),
    "wrong-shape": (
        lambda s: s.update({f"{QUERY}.lora_A.weight": torch.zeros(RANK, 31)}),
        r"adapter_model\.safetensors: what it holds for .*self_attn\.q_proj is for weights of 32 x 31",
    ),
    "another-rank": (
        lambda s: s.update({f"{QUERY}.lora_A.weight": torch.zeros(RANK + 1, 32)}),
        r"adapter_model\.safetensors: the matrices of .*self_attn\.q_proj .* the rank 3",
    ),
    "one-side": (lambda s: s.pop(f"{QUERY}.lora_B.weight"), rf"lacks the key {QUERY}\.lora_B\.weight"),
    "no-sides": (
        lambda s: [*map(s.pop, [*s]), s.update({f"{QUERY}.lora_magnitude_vector": torch.zeros(32)})],
        rf"lacks the key {QUERY}\.lora_A\.weight",
    ),
    "a-bias-of-another-shape": (
        lambda s: s.update({f"{QUERY}.bias": torch.zeros(31)}),
        r"q_proj\.bias is for .* of 31,",
    ),
    "a-number": (lambda s: s.update({f"{QUERY}.weight": torch.tensor(1.0)}), "q_proj is for weights of 1,"),
    "a-length-of-another-shape": (
        lambda s: s.update({f"{QUERY}.lora_magnitude_vector": torch.zeros(31)}),
        "q_proj is for weights of 31 x 32",
    ),
    "an-embedding": (
        lambda s: s.update({f"{WORDS}.lora_embedding_A": torch.zeros(3, 9)}),
        r"changes an embedding, which cannot be merged here: model\.language_model\.shared\.lora_embedding_A",
    ),
    "a-whole-embedding": (
        lambda s: s.update({f"{WORDS}.weight": torch.zeros(9, 3)}),
        r"changes an embedding, .*: model\.language_model\.shared\.weight",
    ),
    "something-new": (lambda s: s.update({f"{QUERY}.lora_C.weight": torch.zeros(3)}), r"cannot be merged.*lora_C"),
    "no-prefix": (lambda s: s.update({"q_proj.weight": torch.zeros(3)}), r"no adapter of PEFT has: q_proj\.weight"),
    "whole-numbers": (lambda s: s.update({f"{QUERY}.bias": torch.zeros(32, dtype=torch.int8)}), "not a floating-point"),
    "nothing": (lambda s: s.clear(), r"adapter_model\.safetensors is empty"),
}
CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "not-lora": ({"peft_type": "IA3"}, "does not describe LoRA"),
    "tokens": ({"trainable_token_indices": [5]}, "uses trainable_token_indices, which cannot be merged here"),
    "two": ({"use_qalora": True, "target_parameters": ["x"]}, "uses use_qalora, target_parameters, which"),
    "a-changed-base": ({"init_lora_weights": "pissa_niter_4"}, "uses init_lora_weights pissa_niter_4"),
    "no-rank": ({"r": 0}, "r or rank_pattern cannot be read"),
    "no-alpha": ({"lora_alpha": "x"}, "lora_alpha or alpha_pattern cannot be read"),
    "a-broken-pattern": ({"rank_pattern": {"(": 4}}, "r or rank_pattern cannot be read"),
}


@pytest.mark.parametrize(("edit", "words"), STATES.values(), ids=STATES.keys())
def test_matrices_that_do_not_fit_are_named(base: Path, tmp_path: Path, edit: Edit, words: str) -> None:
    state = matrices(shapes_of(base, [QUERY.removeprefix("base_model.model.")]))
    edit(state)
    with pytest.raises(CheckpointError, match=words):
        Florence.load(base, "cpu", adapter=write_adapter(tmp_path / "adapter", state))


@pytest.mark.parametrize(("values", "words"), CONFIGS.values(), ids=CONFIGS.keys())
def test_what_cannot_be_merged_is_refused(base: Path, tmp_path: Path, values: dict[str, Any], words: str) -> None:
    state = matrices(shapes_of(base, [QUERY.removeprefix("base_model.model.")]))
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json.* {words}"):
        Florence.load(base, "cpu", adapter=write_adapter(tmp_path / "adapter", state, **values))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_or_broken_file_is_named(base: Path, tmp_path: Path, name: str) -> None:
    state = matrices(shapes_of(base, [QUERY.removeprefix("base_model.model.")]))
    adapter = write_adapter(tmp_path / "adapter", state)
    (adapter / name).write_bytes(b"{broken")
    with pytest.raises(CheckpointError, match=name):
        Florence.load(base, "cpu", adapter=adapter)
    (adapter / name).unlink()
    with pytest.raises(CheckpointError, match=rf"has no {name}") as caught:
        Florence.load(base, "cpu", adapter=adapter)
    assert str(tmp_path) not in str(caught.value)


def test_what_an_older_peft_leaves_in_the_names_is_understood(base: Path, tmp_path: Path) -> None:
    state = matrices(shapes_of(base, [QUERY.removeprefix("base_model.model.")]))
    adapter = write_adapter(tmp_path / "adapter", state)
    expected = answers(Florence.load(base, "cpu", "float32", adapter=adapter))
    write_adapter(adapter, {key.replace(".weight", ".default.weight"): tensor for key, tensor in state.items()})
    change_json(adapter / "adapter_config.json", lambda config: config.pop("use_dora"))
    assert answers(Florence.load(base, "cpu", "float32", adapter=adapter)) == expected
