"""What `create_app` refuses, and what the daemon must never import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vision_server.api.app import create_app
from vision_server.errors import BadSetting
from vision_server.settings import Settings


def test_a_model_or_default_prompt_that_is_not_there(folder: Path) -> None:
    with pytest.raises(BadSetting, match="no checkpoint has this name"):
        create_app(Settings(model="nothing"))
    with pytest.raises(BadSetting, match="default_prompt <NOPE>"):
        create_app(Settings(model=str(folder), default_prompt="<NOPE>"))
    create_app(Settings(model=str(folder), default_prompt="nope", prompts=("<NOPE>",)))


@pytest.mark.parametrize("module", ["vision_server.api.app", "vision_server.cli"])
def test_the_daemon_imports_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module}; print([n for n in ('torch', 'transformers', 'numpy', 'PIL', 'tokenizers',"
        " 'safetensors', 'huggingface_hub') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
