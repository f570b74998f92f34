"""Every layout a checkpoint comes in, made from a native random model: each answers token for token alike."""

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
from torch import Tensor

from tests.engine.conftest import Pair
from tests.tiny import picture
from vision_server.engine import Florence
from vision_server.engine.names import TRANSPOSED, Layout, keys_of, layout_of
from vision_server.engine.preprocess import FLORENCE_TOKENS
from vision_server.errors import CheckpointError

State = dict[str, Tensor]
ASKED = [(picture(seed), "What does the image describe?") for seed in range(4)]
SHARED = "language_model.model.shared.weight"
HEAD = "language_model.lm_head.weight"
DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def native(one_pair: Pair, tmp_path: Path) -> Path:
    return Path(shutil.copytree(one_pair.directory, tmp_path / "checkpoint"))


@pytest.fixture
def original(native: Path, one_pair: Pair) -> Path:
    """The same checkpoint as microsoft/Florence-2-* lays it out, its head stored as older files have it."""
    save(native, to_original(load_file(native / "model.safetensors"), one_pair))
    change_config(native, to_original_config)
    (native / "generation_config.json").unlink()
    return native


def save(directory: Path, state: State) -> None:
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, directory / "model.safetensors")


def change_config(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    edit(config)
    path.write_text(json.dumps(config), encoding="utf-8")


def to_original(state: State, pair: Pair) -> State:
    renamed: State = {}
    for name in pair.ours.network.state_dict():
        for before, after in zip(keys_of(name, Layout.NATIVE), keys_of(name, Layout.ORIGINAL), strict=True):
            if before in state:
                renamed[after] = state[before].T if after in TRANSPOSED else state[before]
    assert len(renamed) == len(state)
    shared = renamed[SHARED]
    copies = {f"language_model.model.{side}.embed_tokens.weight": shared.clone() for side in ("encoder", "decoder")}
    return {
        **renamed,
        **copies,
        HEAD: shared.clone(),
        "language_model.final_logits_bias": torch.zeros(1, len(shared)),
    }


def to_original_config(config: dict[str, Any]) -> None:
    vision, text = config["vision_config"], config["text_config"]
    vision["dim_embed"] = vision.pop("embed_dim")
    vision["image_pos_embed"] = {"type": "learned_abs_2d", "max_pos_embeddings": vision.pop("max_position_embeddings")}
    frames = vision.pop("max_temporal_embeddings")
    vision["visual_temporal_embedding"] = {"type": "COSINE", "max_temporal_embeddings": frames}
    vision["image_feature_source"] = ["spatial_avg_pool", "temporal_avg_pool"]
    config.update(bos_token_id=2, eos_token_id=1, pad_token_id=0)  # wrong, as old fine-tunes have them
    del config["image_token_id"]
    text.update(forced_bos_token_id=0, forced_eos_token_id=2, num_beams=3, no_repeat_ngram_size=3)


def said(directory: Path) -> list[list[int]]:
    return [answer.token_ids for answer in Florence.load(directory, device="cpu", dtype="float32").generate(ASKED)]


@pytest.fixture(scope="module")
def expected(one_pair: Pair) -> list[list[int]]:
    return [answer.token_ids for answer in one_pair.ours.generate(ASKED)]


def without(*keys: str) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        state = load_file(directory / "model.safetensors")
        save(directory, {key: tensor for key, tensor in state.items() if key not in keys})

    return edit


def as_bin(directory: Path, **options: Any) -> None:
    state = load_file(directory / "model.safetensors")
    torch.save(state, directory / "pytorch_model.bin", **options)
    (directory / "model.safetensors").unlink()


def as_shards(directory: Path) -> None:
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    weight_map = {key: f"model-0000{1 + n % 3}-of-00003.safetensors" for n, key in enumerate(sorted(state))}
    for name in set(weight_map.values()):
        save_file({key: state[key] for key in state if weight_map[key] == name}, directory / name)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def resaved(directory: Path) -> None:
    change_config(directory, lambda config: config["text_config"].update(model_type="florence2_language"))
    change_config(directory, lambda config: config["vision_config"].update(model_type=""))


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "as-published": lambda directory: None,
    "re-saved": resaved,
    "head-left-out": without(HEAD),
    "no-embed-tokens": without(
        *(f"language_model.model.{side}.embed_tokens.weight" for side in ("encoder", "decoder"))
    ),
    "only-the-encoders-embed-tokens": without(SHARED, "language_model.model.decoder.embed_tokens.weight"),
    "no-logits-bias": without("language_model.final_logits_bias"),
    "pytorch-bin": as_bin,
    "pytorch-bin-of-old": lambda directory: as_bin(directory, _use_new_zipfile_serialization=False),
    "sharded": as_shards,
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_form_of_the_original_layout_answers_alike(
    original: Path, expected: list[list[int]], layout: Callable[[Path], None]
) -> None:
    layout(original)
    assert said(original) == expected


@pytest.mark.parametrize("layout", [as_bin, as_shards], ids=["pytorch-bin", "sharded"])
def test_the_native_layout_in_other_files(
    native: Path, expected: list[list[int]], layout: Callable[[Path], None]
) -> None:
    layout(native)
    assert said(native) == expected


def test_a_head_of_its_own_is_kept_in_the_original_layout(original: Path) -> None:
    state = load_file(original / "model.safetensors")
    state[HEAD] = state[HEAD].flip(0)
    save(original, state)
    text = Florence.load(original, device="cpu").network.text
    assert torch.equal(text.lm_head.weight, text.shared.weight.flip(0))


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
    patterns = {key for name in one_pair.ours.network.state_dict() for key in keys_of(name, Layout.ORIGINAL)}

    def shape_of(key: str) -> str:
        return ".".join("N" if part.isdigit() else part for part in key.split("."))

    known = {shape_of(key) for key in patterns}
    assert {shape_of(key) for key in published} - known == {
        "language_model.final_logits_bias",
        "language_model.model.encoder.embed_tokens.weight",
        "language_model.model.decoder.embed_tokens.weight",
    }
    assert known <= {shape_of(key) for key in published}


class Hostile:
    """What a malicious .bin holds: unpickled without care it would run a command."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path(self.path),))  # type: ignore[return-value]


def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(original: Path, tmp_path: Path) -> None:
    (original / "model.safetensors").unlink()
    torch.save({"weights": Hostile(str(tmp_path / "ran"))}, original / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin holds more than tensors"):
        Florence.load(original)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"PK\3\4 not an archive", b"\x80\x02garbage", b"\0" * 4096])
def test_a_broken_bin_is_named(original: Path, content: bytes) -> None:
    (original / "model.safetensors").unlink()
    (original / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        Florence.load(original)


@pytest.mark.parametrize(
    "index",
    ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "absent.safetensors"}}', '{"weight_map": {"a": "../x"}}'],
)
def test_a_broken_index_is_named(original: Path, index: str) -> None:
    (original / "model.safetensors").unlink()
    (original / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        Florence.load(original)


def test_a_vision_part_nobody_published_is_refused(original: Path) -> None:
    change_config(original, lambda config: config["vision_config"].update(image_feature_source=["last_frame"]))
    with pytest.raises(CheckpointError, match="positions or image features"):
        Florence.load(original)
