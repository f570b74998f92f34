"""Every layout a checkpoint comes in, made from a native random model: each answers as transformers does from that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tests.engine.conftest import Pair
from tests.layouts import (
    BIAS,
    COPIES,
    HEAD,
    SHARED,
    as_resaved,
    change_json,
    change_state,
    to_original,
    to_published,
    to_resaved,
)
from tests.tiny import Search, Shape, oracle_generate, picture, write_checkpoint
from vision_server.engine import Florence
from vision_server.engine.config import read_config
from vision_server.engine.names import Layout, keys_of, layout_of
from vision_server.engine.preprocess import FLORENCE_TOKENS
from vision_server.errors import CheckpointError, PromptTooLong

ASKED = [(picture(seed), "What does the image describe?") for seed in range(4)]
DATA = Path(__file__).parents[1] / "data"
Change = Callable[[Path], object]


@pytest.fixture
def native(one_pair: Pair, tmp_path: Path) -> Path:
    return Path(shutil.copytree(one_pair.directory, tmp_path / "checkpoint"))


@pytest.fixture
def original(native: Path) -> Path:
    to_original(native)
    return native


@pytest.fixture(scope="module")
def expected(one_pair: Pair) -> list[list[int]]:
    return oracle_generate(one_pair.oracle, one_pair.ours, ASKED, Search())


def said(directory: Path) -> list[list[int]]:
    florence = Florence.load(directory, device="cpu", dtype="float32")
    return [answer.token_ids for answer in florence.generate(ASKED, max_new_tokens=Search().max_new_tokens)]


def without(*keys: str) -> Change:
    return lambda directory: change_state(directory, lambda state: [state.pop(key) for key in keys])


def config(edit: Callable[[dict[str, Any]], object]) -> Change:
    return lambda directory: change_json(directory / "config.json", edit)


def as_bin(directory: Path, **options: Any) -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin", **options)
    (directory / "model.safetensors").unlink()


def as_shards(directory: Path, stem: str = "model", suffix: str = ".safetensors") -> None:
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    weight_map = {key: f"{stem}-0000{1 + n % 3}-of-00003{suffix}" for n, key in enumerate(sorted(state))}
    for name in set(weight_map.values()):
        shard = {key: state[key] for key in state if weight_map[key] == name}
        save_file(shard, directory / name) if suffix == ".safetensors" else torch.save(shard, directory / name)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / f"{stem}{suffix}.index.json").write_text(json.dumps(index), encoding="utf-8")


def beside_a_broken_bin(directory: Path) -> None:
    (directory / "pytorch_model.bin").write_bytes(b"never opened")


ORIGINAL: dict[str, Change] = {
    "everything-stored": lambda directory: None,
    "head-left-out": without(HEAD),
    "no-embed-tokens": without(*COPIES),
    "only-the-encoders-embed-tokens": without(SHARED, COPIES[1]),
    "no-logits-bias": without(BIAS),
    "florence2-language": config(lambda c: c["text_config"].update(model_type="florence2_language")),
    "vision-type-empty": config(lambda c: c["vision_config"].update(model_type="")),
    "vision-type-davit": config(lambda c: c["vision_config"].update(model_type="davit")),
    "vision-type-absent": config(lambda c: c["vision_config"].pop("model_type")),
    "wrong-top-level-ids": config(lambda c: c.update(bos_token_id=2, eos_token_id=1, pad_token_id=0)),
    "all-that-is-re-saved": config(as_resaved),
    "pytorch-bin": as_bin,
    "pytorch-bin-of-old": lambda directory: as_bin(directory, _use_new_zipfile_serialization=False),
    "sharded": as_shards,
    "sharded-bin": lambda directory: as_shards(directory, "pytorch_model", ".bin"),
    "safetensors-before-bin": beside_a_broken_bin,
}
NATIVE: dict[str, Change] = {
    "pytorch-bin": as_bin,
    "sharded": as_shards,
    "head-stored": lambda directory: change_state(
        directory, lambda state: state.update({"lm_head.weight": state["model.language_model.shared.weight"].clone()})
    ),
    "only-the-encoders-embed-tokens": lambda directory: change_state(
        directory,
        lambda state: state.update(
            {"model.language_model.encoder.embed_tokens.weight": state.pop("model.language_model.shared.weight")}
        ),
    ),
    "to-the-original-as-published": to_published,
    "to-the-original-as-re-saved": to_resaved,
}


@pytest.mark.parametrize("change", ORIGINAL.values(), ids=ORIGINAL.keys())
def test_every_form_of_the_original_layout_answers_alike(
    original: Path, expected: list[list[int]], change: Change
) -> None:
    change(original)
    assert said(original) == expected


@pytest.mark.parametrize("change", NATIVE.values(), ids=NATIVE.keys())
def test_every_form_of_the_native_layout_answers_alike(native: Path, expected: list[list[int]], change: Change) -> None:
    change(native)
    assert said(native) == expected


def test_a_head_of_its_own_is_kept_in_the_original_layout(original: Path) -> None:
    change_state(original, lambda state: state.update({HEAD: state[HEAD].flip(0)}))
    text = Florence.load(original, device="cpu", plain=True).network.text
    assert torch.equal(text.lm_head.weight, text.shared.weight.flip(0))


@pytest.mark.parametrize("positions", [1024, 4096])
def test_the_position_table_is_as_long_as_the_checkpoint_says(tmp_path: Path, positions: int) -> None:
    write_checkpoint(tmp_path, Shape("long", text={"max_position_embeddings": positions}))
    to_published(tmp_path)
    florence = Florence.load(tmp_path, device="cpu", dtype="float32")
    room = positions - florence.image_tokens - 2
    assert florence.max_positions == positions
    florence.submit(picture(1), "car" + " car" * (room - 1))
    with pytest.raises(PromptTooLong, match=f"at most {room}"):
        florence.submit(picture(1), "car" + " car" * room)
    change_json(tmp_path / "config.json", lambda c: c["text_config"].update(max_position_embeddings=512))
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: language_model.*embed_positions\.weight has the shape"
    ):
        Florence.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "widths", "d_model"), [("base", 128, 768), ("large", 256, 1024), ("resaved", 128, 768)]
)
def test_the_published_configurations_are_read(tmp_path: Path, name: str, widths: int, d_model: int) -> None:
    """Spaces at the ends of lines and all; the re-saved one has each of its oddities."""
    shutil.copy(DATA / f"config.{name}.json", tmp_path / "config.json")
    read = read_config(tmp_path)
    assert read.vision.embed_dim == (widths, 2 * widths, 4 * widths, 8 * widths)
    assert (read.vision.depths, read.vision.window_size, read.vision.projection_dim) == ((1, 1, 9, 1), 12, d_model)
    assert (read.text.d_model, read.text.vocab_size, read.text.max_position_embeddings) == (d_model, 51289, 1024)
    assert (read.generation.forced_bos_token_id, read.generation.forced_eos_token_id) == (0, 2)
    assert (read.grid, read.preprocess.height, read.image_token_id) == ((24, 24), 768, None)


def test_a_stock_tokenizer_is_given_florences_tokens(one_pair: Pair, native: Path) -> None:
    """The stock tokenizer.json is BART's alone; the tokens follow its vocabulary in the published order."""
    stock = json.loads((native / "tokenizer.json").read_text(encoding="utf-8"))
    stock["added_tokens"] = [token for token in stock["added_tokens"] if token["id"] < 5]
    (native / "tokenizer.json").write_text(json.dumps(stock), encoding="utf-8")
    size = Tokenizer.from_file(str(native / "tokenizer.json")).get_vocab_size()
    tokenizer = Florence.load(native, device="cpu").tokenizer
    text = "".join(FLORENCE_TOKENS)
    assert tokenizer.encode(text) == [0, *range(size, size + len(FLORENCE_TOKENS)), 2]
    assert tokenizer.encode(text) == one_pair.ours.tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode("a car<loc_7><sep>")) == "a car<loc_7><sep>"


@pytest.mark.parametrize("size", ["base", "large"])
def test_the_published_keys_are_all_known(one_pair: Pair, size: str) -> None:
    """Every key of the published checkpoints is one of ours or one that may be dropped, and none of ours is missing."""
    published = set(json.loads((DATA / f"state_dict_keys.{size}.json").read_text(encoding="utf-8")))
    assert layout_of(published) is Layout.ORIGINAL
    plain = Florence.load(one_pair.directory, device="cpu", plain=True).network
    patterns = {key for name in plain.state_dict() for key in keys_of(name, Layout.ORIGINAL)}

    def shape_of(key: str) -> str:
        return ".".join("N" if part.isdigit() else part for part in key.split("."))

    known = {shape_of(key) for key in patterns}
    assert {shape_of(key) for key in published} - known == {
        "language_model.final_logits_bias",
        "language_model.model.encoder.embed_tokens.weight",
        "language_model.model.decoder.embed_tokens.weight",
    }
    assert known <= {shape_of(key) for key in published}


@pytest.mark.parametrize(
    "index",
    ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "absent.safetensors"}}', '{"weight_map": {"a": "../x"}}'],
)
def test_a_broken_index_is_named(original: Path, index: str) -> None:
    (original / "model.safetensors").unlink()
    (original / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        Florence.load(original)


def test_a_truncated_shard_and_a_key_in_no_shard_are_named(original: Path) -> None:
    as_shards(original)
    shard = original / "model-00002-of-00003.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors is truncated"):
        Florence.load(original)
    state = load_file(original / "model-00001-of-00003.safetensors")
    save_file({**state, "extra": torch.zeros(1)}, original / "model-00001-of-00003.safetensors")
    shard.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"model-00001-of-00003\.safetensors has a key .*: extra"):
        Florence.load(original)
    save_file({"extra": torch.zeros(1)}, shard)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json lacks the key [a-z_.0-9]+\."):
        Florence.load(original)


def test_a_vision_part_nobody_published_is_refused(original: Path) -> None:
    change_json(original / "config.json", lambda c: c["vision_config"].update(image_feature_source=["last_frame"]))
    with pytest.raises(CheckpointError, match="positions or image features"):
        Florence.load(original)
