"""An adapter behind the daemon: merged in its worker, asked over HTTP, its name and not its folder shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.daemon_process import ENVIRONMENT, Daemon
from vision_server.catalog import EMBEDDED
from vision_server.engine import Florence
from vision_server.tasks import answer, of_token, sentence
from vision_server.training.samples import FOLDER

PICTURE = min(path for path in FOLDER.iterdir() if path.suffix == ".png")
TOKENS = 20


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Matrices large enough to be heard, at the decoder's queries and in the vision tower."""
    directory = tmp_path / "my-style"
    directory.mkdir()
    weights = load_file(EMBEDDED / "model.safetensors")
    modules = [f"model.language_model.decoder.layers.{layer}.fc1" for layer in range(3)]
    modules += ["model.vision_tower.blocks.2.0.channel_block.ffn.fc1"]
    chance = torch.Generator().manual_seed(2)
    state = {}
    for module in modules:
        outputs, inputs = weights[f"{module}.weight"].shape
        for side, shape in (("A", (4, inputs)), ("B", (outputs, 4))):
            key = f"base_model.model.{module}.lora_{side}.weight"
            state[key] = torch.randn(shape, generator=chance) * 0.3
    save_file(state, directory / "adapter_model.safetensors")
    options = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "bias": "none"}
    (directory / "adapter_config.json").write_text(json.dumps(options))
    return directory


def said(adapter: Path | None) -> Any:
    florence = Florence.load(EMBEDDED, device="cpu", dtype="float32", adapter=adapter)
    with Image.open(PICTURE) as opened:
        image = opened.convert("RGB")
    prompt = sentence(of_token("<CAPTION>"), "", None, image.size)
    return answer("<CAPTION>", florence.generate([(image, prompt)], max_new_tokens=TOKENS)[0].text, image.size)


@contextmanager
def serving(adapter: Path, *flags: str) -> Iterator[Daemon]:
    config = adapter.with_name("none.yaml")
    config.write_text("")
    command = [sys.executable, "-m", "vision_server", "--config", str(config), "--port", "0", "--device", "cpu"]
    command += ["--model", "demo", "--dtype", "float32", "--adapter", str(adapter), *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            yield Daemon(process)
        finally:
            process.kill()


@pytest.mark.parametrize("standby", ["--no-standby", "--standby"])
def test_it_answers_as_the_engine_does_with_the_adapter(adapter: Path, tmp_path: Path, standby: str) -> None:
    """A standby process makes the checkpoint's empty network ahead; after an unload another worker merges anew."""
    truly = said(adapter)
    assert truly != said(None)
    with serving(adapter, standby) as daemon:
        for _ in range(2):
            status, body = daemon.call(f"/process_image?prompt=CAPTION&max_new_tokens={TOKENS}", PICTURE.read_bytes())
            assert (status, body) == (200, {"result": truly})
            status, body = daemon.call("/status")
            assert (body["state"], body["model"], body["adapter"]) == ("ready", "demo", "my-style")
            assert str(tmp_path) not in json.dumps(body)
            assert daemon.call("/unload", b"")[0] == 200
        assert daemon.call("/model") == (200, "demo")


def test_one_that_does_not_fit_is_told_to_who_asks_and_names_no_folder(adapter: Path, tmp_path: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    state = load_file(path)
    state["base_model.model.model.elsewhere.weight"] = torch.zeros(3)
    save_file(state, path)
    with serving(adapter) as daemon:
        status, body = daemon.call("/process_image?prompt=CAPTION", PICTURE.read_bytes())
    assert status == 503
    assert "changes what this Florence-2 does not have: model.elsewhere.weight." in body["error"]
    assert str(tmp_path) not in json.dumps(body)
