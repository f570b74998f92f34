"""What `create_app` refuses, and what the daemon must never import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from vision_server.api.app import create_app
from vision_server.errors import BadSetting
from vision_server.jobs import Model
from vision_server.settings import Settings


def test_a_model_or_default_prompt_that_is_not_there(folder: Path) -> None:
    with pytest.raises(BadSetting, match="no checkpoint has this name"):
        create_app(Settings(model="nothing"))
    with pytest.raises(BadSetting, match="default_prompt <NOPE>"):
        create_app(Settings(model=str(folder), default_prompt="<NOPE>"))
    create_app(Settings(model=str(folder), default_prompt="nope", prompts=("<NOPE>",)))


async def test_what_the_worker_is_told_of_the_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Model] = []

    @asynccontextmanager
    async def opened(models: Sequence[Model], **_: Any) -> AsyncIterator[None]:
        heard.extend(models)
        yield

    monkeypatch.setattr("vision_server.api.app.open_queue", opened)
    chosen = Settings(model=str(folder), max_batch=3, max_pixels_m=1.5, feature_cache_mb=0.5, dtype="bfloat16")
    runner = web.AppRunner(create_app(chosen))
    await runner.setup()
    await runner.cleanup()
    hello = heard[0].hello
    assert (hello.max_batch, hello.max_pixels, hello.dtype) == (3, 1_500_000, "bfloat16")
    assert hello.feature_cache_bytes == 1 << 19


@pytest.mark.parametrize("module", ["vision_server.api.app", "vision_server.cli"])
def test_the_daemon_imports_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module}; print([n for n in ('torch', 'transformers', 'numpy', 'PIL', 'tokenizers',"
        " 'safetensors', 'huggingface_hub') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
