"""Nothing is executed from a checkpoint: no pickle that is more than tensors, no Python file beside the weights."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.conftest import Pair
from tests.layouts import change_json, to_original
from tests.tiny import picture
from vision_server.engine import Florence
from vision_server.errors import CheckpointError

MODULES = ("configuration_florence2", "modeling_florence2", "processing_florence2", "sitecustomize", "torch_extension")


class Hostile:
    """What a malicious file holds: unpickled without care it would make a file called `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return (Path.touch, (self.path,))


@pytest.fixture
def original(one_pair: Pair, tmp_path: Path) -> Path:
    directory = Path(shutil.copytree(one_pair.directory, tmp_path / "checkpoint"))
    to_original(directory)
    return directory


def test_the_hostile_file_is_hostile(tmp_path: Path) -> None:
    torch.save({"weights": Hostile(tmp_path / "ran")}, tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "old-format"])
@pytest.mark.parametrize("sharded", [False, True], ids=["alone", "sharded"])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(
    original: Path, tmp_path: Path, archive: bool, sharded: bool
) -> None:
    (original / "model.safetensors").unlink()
    name = "pytorch_model-00001-of-00001.bin" if sharded else "pytorch_model.bin"
    state = {"weights": Hostile(tmp_path / "ran")}
    torch.save(state, original / name, _use_new_zipfile_serialization=archive)
    if sharded:
        index = f'{{"weight_map": {{"weights": "{name}"}}}}'
        (original / "pytorch_model.bin.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"{name} holds more than tensors"):
        Florence.load(original)
    assert not (tmp_path / "ran").exists()


def test_what_lies_beside_the_weights_is_not_opened(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """auto_map names code, the code is there and in the current folder, and so are a trainer's pickles."""
    for name in MODULES:
        code = f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        (original / f"{name}.py").write_text(code, encoding="utf-8")
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "preprocessor.pkl"):
        torch.save({"weights": Hostile(tmp_path / "ran")}, original / name)
    names = {f"Auto{kind}": "modeling_florence2.Florence2" for kind in ("Config", "ModelForCausalLM", "Processor")}
    change_json(original / "config.json", lambda config: config.update(auto_map=names, trust_remote_code=True))
    monkeypatch.chdir(original)
    assert Florence.load(original, device="cpu").generate([(picture(1), "car")], max_new_tokens=3)
    assert not (tmp_path / "ran").exists()
    assert not {name for name in MODULES if name != "sitecustomize"} & set(sys.modules)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 not an archive", b"\x80\x02garbage", b"\0" * 4096])
def test_a_broken_bin_is_named(original: Path, content: bytes) -> None:
    (original / "model.safetensors").unlink()
    (original / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        Florence.load(original)


@pytest.mark.parametrize("state", [[1, 2], {"weights": "text"}, {"step": 3}])
def test_a_bin_of_something_else_is_named(original: Path, state: object) -> None:
    (original / "model.safetensors").unlink()
    torch.save(state, original / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is not a dictionary of tensors"):
        Florence.load(original)


def test_a_truncated_bin_is_named(original: Path) -> None:
    path = original / "pytorch_model.bin"
    torch.save({"weights": torch.zeros(100_000)}, path)
    (original / "model.safetensors").unlink()
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        Florence.load(original)
