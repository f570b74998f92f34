"""One checkpoint or several from the settings, the options that hold for each, and where files come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vision_server.catalog import Checkpoint, resolve
from vision_server.errors import BadSetting
from vision_server.hub import Source
from vision_server.served import Served, named, served, source
from vision_server.setting_models import MODELS
from vision_server.settings import Settings
from vision_server.tasks import STOCK


def several(model: str, models: dict[str, Any], **more: Any) -> Settings:
    return Settings(model=model, models=MODELS.parse(models), **more)


def test_without_models_exactly_one_is_served() -> None:
    settings = Settings(model="base", revision="v1", dtype="float16", prompts=("<NEW>", "<OD>"), idle_timeout_s=7)
    assert served(settings) == (Served(resolve("base", "v1"), "auto", "float16", None, (*STOCK, "<NEW>"), 7),)
    assert served(settings)[0].name == "base"
    assert served(Settings())[0].prompts == resolve("promptgen-large").prompts


def test_each_has_the_settings_where_it_has_no_option_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    options = {
        "model": "owner/name",
        "revision": "v2",
        "device": "cpu",
        "dtype": "float32",
        "adapter": str(tmp_path),
        "prompts": ["<MINE>"],
        "idle_timeout_s": 0,
    }
    settings = several("demo", {"mine": options, "demo": None}, prompts=("<NEW>",), device="cuda", idle_timeout_s=9)
    assert served(settings) == (
        Served(resolve("demo"), "cuda", "auto", None, (*(resolve("demo").prompts or ()), "<NEW>"), 9),
        Served(Checkpoint("mine", repository="owner/name", revision="v2"), "cpu", "float32", tmp_path, ("<MINE>",), 0),
    )


def test_the_adapter_of_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert [one.adapter for one in served(Settings(model="demo", adapter=tmp_path))] == [tmp_path]
    with pytest.raises(BadSetting, match=r"^adapter: .*nowhere holds no adapter_config\.json"):
        served(Settings(model="demo", adapter=tmp_path / "nowhere"))
    with pytest.raises(BadSetting, match="adapter: with `models`, each of them names its own"):
        served(several("demo", {"demo": None}, adapter=tmp_path))


def test_the_default_comes_first_and_the_others_keep_their_order() -> None:
    models = {"Base": None, "large": None, "demo": None, "other": {"model": "large"}}
    assert [one.name for one in served(several("base", models))] == ["Base", "large", "demo", "other"]
    assert [one.name for one in served(several("Demo", models))] == ["demo", "Base", "large", "other"]


@pytest.mark.parametrize(
    ("model", "models", "said"),
    [
        ("promptgen-large", {"base": None, "demo": None}, "names the default one of them: base, demo"),
        ("bsae", {"bsae": None}, r"models: bsae: model bsae: no checkpoint has this name.*base\?"),
        ("x", {"x": {"model": "demo", "adapter": "nowhere"}}, r"models: x: .*nowhere holds no adapter_config\.json"),
        ("x", {"x": {"model": "demo", "revision": "v2"}}, "models: x: model demo: a folder has no revisions"),
    ],
)
def test_what_cannot_be_served_is_said(model: str, models: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSetting, match=said):
        served(several(model, models))


def test_an_operator_names_one_of_the_models_or_anything_that_resolves() -> None:
    settings = several("mine", {"mine": {"model": "owner/name", "revision": "v2"}, "bad": {"model": "nowhere"}})
    assert named("Mine", settings) == Checkpoint("mine", repository="owner/name", revision="v2")
    assert named("mine", settings, "v3").revision == "v3"
    assert named("base", settings).revision == "main"
    alone = Settings(model="base", revision="v9")
    assert [named(name, alone).revision for name in ("Base", "large")] == ["v9", "main"]
    with pytest.raises(BadSetting, match="models: bad: "):
        named("bad", settings)


def test_the_source_is_as_the_settings_say(tmp_path: Path) -> None:
    assert source(resolve("demo"), Settings()) is None
    settings = Settings(
        hf_token="hf_secret", cache_dir=tmp_path, offline=True, hf_endpoint="http://h", download_stall_timeout_s=5
    )
    made = source(resolve("owner/name", "v1"), settings)
    assert made == Source("owner/name", "v1", "hf_secret", tmp_path, True, "http://h", 5)
    assert "hf_secret" not in repr(made)


@pytest.mark.parametrize(("download_s", "load_s", "stall_s"), [(60, 120, 60), (60, 40, 20), (500, 120, 60)])
def test_a_download_gives_up_before_its_worker_is_taken_for_stuck(
    download_s: float, load_s: float, stall_s: float
) -> None:
    made = source(resolve("base"), Settings(download_stall_timeout_s=download_s, load_stall_timeout_s=load_s))
    assert made is not None
    assert made.stall_timeout_s == stall_s
