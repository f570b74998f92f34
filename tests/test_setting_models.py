"""The mapping `models`: what it may hold, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vision_server.setting_models import MODELS, ModelEntry


def test_every_option_is_optional_and_the_name_is_the_model() -> None:
    assert MODELS.parse({"base": None, "owner/name": {}}) == (
        ModelEntry("base", "base"),
        ModelEntry("owner/name", "owner/name"),
    )
    assert MODELS.parse(None) == MODELS.parse({}) == ()


def test_the_options_are_read_as_the_settings_of_their_names() -> None:
    options = {
        "model": " owner/name ",
        "revision": "v2",
        "device": "CUDA:1",
        "dtype": "Float16",
        "adapter": "lora",
        "prompts": ["<A>", "<B>"],
        "idle_timeout_s": "-1",
    }
    entry = ModelEntry("mine", "owner/name", "v2", "cuda:1", "float16", Path("lora").absolute(), ("<A>", "<B>"), -1.0)
    assert MODELS.parse({"mine": options}) == (entry,)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("base, large", "must be a mapping of names"),
        (["base"], "must be a mapping of names"),
        ({"base": "large"}, "options below base"),
        ({"base": [1]}, "options below base"),
        ({7: None}, "must hold names of letters"),
        ({"a b": None}, "must hold names of letters"),
        ({"a:latest": None}, "must hold names of letters"),
        ({"../a": None}, "must hold names of letters"),
        ({"x" * 101: None}, "must hold names of letters"),
        ({"base": {"dtpye": "auto"}}, "base has no dtpye; did you mean dtype?"),
        ({"base": {"xyzzy": 1}}, "base has no xyzzy; there are model, revision, device"),
        ({"base": {"dtype": "int3"}}, "dtype of base must be one of auto"),
        ({"base": {"model": 7}}, "model of base must be text"),
        ({"base": {"idle_timeout_s": -3}}, "idle_timeout_s of base must be seconds"),
        ({"base": None, "Base": None}, "must not hold a name twice"),
    ],
)
def test_what_cannot_be_used_is_said(raw: Any, said: str) -> None:
    with pytest.raises(ValueError, match=r"^must ") as caught:
        MODELS.parse(raw)
    assert said in str(caught.value)
