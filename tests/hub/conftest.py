"""A hub on loopback, and a huggingface_hub that knows neither the real home nor a token nor the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.hub.toy import FILES, NAME
from tests.hub_server import Hub, Repository, serve
from vision_server.hub import Source


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "library"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "tokens"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    with serve() as served:
        served.repositories[NAME] = Repository(dict(FILES))
        yield served
        huggingface_hub.close_session()
    assert not (tmp_path / "library").exists()


@pytest.fixture
def source(hub: Hub, tmp_path: Path) -> Source:
    return Source(NAME, cache=tmp_path / "cache", endpoint=hub.url, stall_timeout_s=20)
