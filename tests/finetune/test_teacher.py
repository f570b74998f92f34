"""The model that learns is the checkpoint, whatever its layout, and its loss is transformers' own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Florence2ForConditionalGeneration

from tests.layouts import HEAD, change_state, to_original, to_published, to_resaved
from vision_server.catalog import EMBEDDED
from vision_server.engine.config import read_config
from vision_server.engine.preprocess import PromptTokenizer
from vision_server.errors import BadSetting
from vision_server.finetune.batches import Batch, Maker
from vision_server.finetune.checking import check
from vision_server.finetune.options import Lora
from vision_server.finetune.teacher import IGNORED, Teacher, all_weights, build, targets, with_lora

LAYOUTS: dict[str, Callable[[Path], object]] = {
    "native": lambda directory: None,
    "original": to_original,
    "published": to_published,
    "re-saved": to_resaved,
}


def batch_of(directory: Path, lessons: Path, first: int = 0, count: int = 6) -> Batch:
    config, tokenizer = read_config(directory), PromptTokenizer(directory)
    examples = check([lessons], "", config, tokenizer, 2, quiet=True).examples
    return Maker(tokenizer, config.preprocess).make(examples[first : first + count])


def loss_of(teacher: Teacher, batch: Batch) -> float:
    with torch.no_grad():
        lost, labels = teacher.eval()(**vars(batch))
    return float(lost / labels)


def oracles(directory: Path, batch: Batch) -> float:
    """transformers' loss for the same rows, asked as its own examples ask: image tokens in the prompt, and labels."""
    oracle = Florence2ForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    image = torch.full((1, oracle.config.vision_config.projection_dim), 0)
    height, width = read_config(directory).grid
    tokens = torch.full((len(batch.prompts_RT), height * width + 1), oracle.config.image_token_id)
    ids = torch.cat([tokens, batch.prompts_RT], dim=1)
    assert image.shape[1]
    with torch.no_grad():
        said = oracle(
            input_ids=ids,
            attention_mask=(ids != 1).long(),
            pixel_values=batch.pixels_PCHW[batch.picture_of_R],
            labels=batch.answers_RL,
        )
    return float(said.loss)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_loss_is_that_of_transformers(base: Path, lessons: Path, tmp_path: Path, layout: str) -> None:
    batch = batch_of(base, lessons)
    assert len(batch.pixels_PCHW) < len(batch.answers_RL)  # some picture is asked about twice
    assert (batch.answers_RL == IGNORED).any()
    expected = oracles(base, batch)
    directory = Path(shutil.copytree(base, tmp_path / "other"))
    LAYOUTS[layout](directory)
    teacher = Teacher(build(directory, read_config(directory), dropout=0.0))
    assert loss_of(teacher, batch) == pytest.approx(expected, abs=1e-4)


def test_the_loss_of_the_embedded_checkpoint_is_that_of_transformers(lessons: Path) -> None:
    batch = batch_of(EMBEDDED, lessons)
    teacher = Teacher(build(EMBEDDED, read_config(EMBEDDED), dropout=0.1))
    assert loss_of(teacher, batch) == pytest.approx(oracles(EMBEDDED, batch), abs=1e-4)


def test_a_head_of_its_own_stays_one(base: Path, lessons: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(base, tmp_path / "other"))
    to_resaved(directory)
    plain = loss_of(Teacher(build(directory, read_config(directory), 0.0)), batch_of(base, lessons))
    change_state(directory, lambda state: state.update({HEAD: state[HEAD] * 0.5}))
    model = build(directory, read_config(directory), 0.0)
    shared = model.model.language_model.shared.weight
    assert model.lm_head.weight.data_ptr() != shared.data_ptr()
    torch.testing.assert_close(model.lm_head.weight, shared * 0.5)
    assert model.model.language_model.encoder.embed_tokens.weight.data_ptr() == shared.data_ptr()
    assert loss_of(Teacher(model), batch_of(base, lessons)) != pytest.approx(plain, abs=1e-3)


def gradients(teacher: Teacher, batch: Batch) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    lost, labels = teacher.train()(**vars(batch))
    (lost / labels).backward()
    return {name: one.grad for name, one in teacher.named_parameters() if one.grad is not None}


def test_recomputing_changes_no_gradient(base: Path, lessons: Path) -> None:
    """Dropout is on: what is made again is made with the same chances."""
    found = []
    for recompute in (False, True):
        model = build(base, read_config(base), dropout=0.1)
        all_weights(model, frozen_vision=False)
        calls: list[int] = []
        layer = model.model.vision_tower.blocks[0][0]
        layer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        found.append(gradients(Teacher(model, recompute), batch_of(base, lessons)))
    plain, again = found
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name)


def test_a_frozen_tower_learns_nothing(base: Path, lessons: Path) -> None:
    model = build(base, read_config(base), 0.0)
    learning = with_lora(model, Lora(), True, "tiny")
    named = gradients(Teacher(learning), batch_of(base, lessons))
    assert named
    assert not [name for name in named if "vision_tower" in name]
    full = build(base, read_config(base), 0.0)
    all_weights(full, frozen_vision=True)
    named = gradients(Teacher(full), batch_of(base, lessons))
    assert any("image_projection" in name for name in named)
    assert not [name for name in named if "vision_tower" in name]


@pytest.mark.parametrize(
    ("wanted", "ends"),
    [
        (("attention",), {"q_proj", "k_proj", "v_proj", "out_proj", "qkv", "proj"}),
        (("feedforward",), {"fc1", "fc2"}),
        (("projector",), {"image_projection"}),
        (("convolutions",), {"conv"}),
        (("encoder_attn.q_proj", "fc2"), {"q_proj", "fc2"}),
    ],
)
def test_modules_are_named_by_group_or_by_their_end(base: Path, wanted: tuple[str, ...], ends: set[str]) -> None:
    found = targets(build(base, read_config(base), 0.0), wanted, frozen_vision=False)
    assert {name.rpartition(".")[2] for name in found} == ends
    if "encoder_attn.q_proj" in wanted:
        assert all("encoder_attn" in name for name in found if name.endswith("q_proj"))


def test_a_module_that_is_none_is_refused(base: Path) -> None:
    with pytest.raises(BadSetting, match="no such module"):
        with_lora(build(base, read_config(base), 0.0), Lora(modules=("nonsense",)), False, "tiny")
