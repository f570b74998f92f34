"""`vision-server merge`: what it writes answers as the checkpoint with its adapter, here and in transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from tests.layouts import change_json, to_published, to_resaved
from tests.tiny import SHAPES, Search, oracle_generate, picture, write_checkpoint
from vision_server import cli
from vision_server.engine import Florence
from vision_server.engine.files import SAFETENSORS

ASKED = [(picture(seed), "What does the image describe?") for seed in range(3)]
SEARCH = Search(max_new_tokens=25)
LAYOUTS: dict[str, Callable[[Path], object]] = {
    "native": lambda directory: None,
    "published": to_published,
    "re-saved": to_resaved,
}
pytestmark = pytest.mark.filterwarnings("ignore")  # transformers and PEFT call what each other call deprecated
ADAPTED = r".*(q_proj|fc1|qkv|image_projection|convs\.1\.conv)"


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("native")
    write_checkpoint(directory, SHAPES[0])
    return directory


def trained(base: Path, directory: Path, modules: str | list[str]) -> Path:
    torch.manual_seed(7)
    model = Florence2ForConditionalGeneration.from_pretrained(base)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=modules, init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def adapter(native: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(native, tmp_path_factory.mktemp("adapter"), ADAPTED)


def said(directory: Path, adapter: Path | None = None) -> list[list[int]]:
    florence = Florence.load(directory, "cpu", "float32", adapter=adapter)
    return [answer.token_ids for answer in florence.generate(ASKED, max_new_tokens=SEARCH.max_new_tokens)]


def merge(base: Path, out: Path, *words: str) -> int:
    config = base.with_name("none.yaml")
    config.write_text("")
    flags = ["--config", str(config), "--model", str(base), "--out", str(out)]
    return cli.main(["merge", *flags, *words])


@pytest.mark.parametrize("layout", ["same", "native", "original"])
@pytest.mark.parametrize("base", LAYOUTS)
def test_merged_and_unmerged_say_the_same(
    native: Path, adapter: Path, tmp_path: Path, base: str, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Token for token, from any layout to any; in the native one transformers says it too."""
    source, out = Path(shutil.copytree(native, tmp_path / "base")), tmp_path / "merged"
    LAYOUTS[base](source)
    expected = said(source, adapter)
    assert expected != said(source)
    assert merge(source, out, "--adapter", str(adapter), "--layout", layout) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert said(out) == expected
    keys = load_file(out / SAFETENSORS).keys()
    is_native = layout == "native" or (layout, base) == ("same", "native")
    assert any(key.startswith("model.vision_tower.") for key in keys) is is_native
    assert {path.name for path in tmp_path.iterdir()} == {"base", "merged", "none.yaml"}
    if is_native:
        model = Florence2ForConditionalGeneration.from_pretrained(out)
        assert oracle_generate(model, Florence.load(out, "cpu", "float32"), ASKED, SEARCH) == expected


def test_it_is_the_model_that_peft_has_merged(native: Path, adapter: Path, tmp_path: Path) -> None:
    assert merge(native, tmp_path / "merged", "--adapter", str(adapter)) == 0
    theirs = PeftModel.from_pretrained(Florence2ForConditionalGeneration.from_pretrained(native), adapter)
    state = theirs.merge_and_unload().state_dict()
    for key, tensor in load_file(tmp_path / "merged" / SAFETENSORS).items():
        torch.testing.assert_close(tensor, state[key], atol=2e-6, rtol=1e-5, msg=key)


@pytest.mark.parametrize("base", ["native", "published"])
@pytest.mark.parametrize("layout", ["native", "original"])
def test_a_head_of_its_own_stays_one(native: Path, tmp_path: Path, base: str, layout: str) -> None:
    adapter = trained(native, tmp_path / "adapter", ["lm_head", "fc2"])
    source, out = Path(shutil.copytree(native, tmp_path / "base")), tmp_path / "merged"
    LAYOUTS[base](source)
    expected = said(source, adapter)
    assert merge(source, out, "--adapter", str(adapter), "--layout", layout) == 0
    assert said(out) == expected
    if layout == "native":
        model = Florence2ForConditionalGeneration.from_pretrained(out)
        assert oracle_generate(model, Florence.load(out, "cpu", "float32"), ASKED, SEARCH) == expected


def test_transformers_reads_pictures_and_prompts_of_a_checkpoint_that_was_original(
    native: Path, tmp_path: Path
) -> None:
    """Without an adapter it is a change of layout; the processor comes from the files alone."""
    source, out = Path(shutil.copytree(native, tmp_path / "base")), tmp_path / "out"
    to_resaved(source)
    change_json(source / "config.json", lambda config: config["text_config"].update(forced_bos_token_id=5))
    assert merge(source, out, "--layout", "native") == 0
    ours, processor = Florence.load(out, "cpu", "float32"), AutoProcessor.from_pretrained(out)
    assert ours.config.generation.forced_bos_token_id == 5
    inputs = processor(images=ASKED[0][0], text="<CAPTION>", return_tensors="pt")
    [answer] = ours.generate(ASKED[:1], max_new_tokens=10)
    assert inputs["input_ids"].shape[1] == ours.image_tokens + answer.prompt_tokens
    assert said(out) == said(source)


def test_half_the_size_if_asked(native: Path, adapter: Path, tmp_path: Path) -> None:
    assert merge(native, tmp_path / "half", "--adapter", str(adapter), "--dtype", "float16") == 0
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / SAFETENSORS).values()} == {torch.float16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"
    assert len({path.stat().st_mode for path in (tmp_path / "half").iterdir()}) == 1, "all may be read by the same"
    whole = Florence.load(native, "cpu", "float32", adapter=adapter, plain=True).network.state_dict()
    for name, tensor in Florence.load(tmp_path / "half", "cpu", "float32", plain=True).network.state_dict().items():
        assert torch.equal(tensor, whole[name].half().float()), name


def test_nothing_that_is_there_is_written_over(
    native: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    assert merge(native, tmp_path / "mine") == 0
    before = {path: path.stat().st_mtime_ns for path in native.iterdir()}
    assert merge(native, native) == 2
    assert merge(native, tmp_path / "mine") == 2
    assert "this is there already; name a new folder." in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in native.iterdir()} == before


def test_an_adapter_that_does_not_fit_leaves_nothing(
    native: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(adapter, tmp_path / "broken"))
    (broken / "adapter_model.safetensors").write_bytes(b"{broken")
    assert merge(native, tmp_path / "merged", "--adapter", str(broken)) == 1
    error = capsys.readouterr().err
    assert (
        error
        == "vision-server merge: The adapter's adapter_model.safetensors is truncated or not a safetensors file.\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"broken"}
    assert merge(native, tmp_path / "merged", "--adapter", str(tmp_path)) == 2
    assert "holds no adapter_config.json, so it is no adapter" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert merge(native, tmp_path / "file" / "merged") == 1
    assert "cannot write the checkpoint" in capsys.readouterr().err
