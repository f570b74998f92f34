"""Options and keep-alive: types, bounds, and the text forms that a query gives them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_server.api.fields import read
from vision_server.api.requests import options_of, pick, to_request
from vision_server.catalog import Checkpoint
from vision_server.errors import BadOption, ModelNotFound, UnknownPrompt, VisionError
from vision_server.jobs import Options
from vision_server.served import Served
from vision_server.settings import Settings


def served(checkpoint: Checkpoint, prompts: tuple[str, ...] = ("<CAPTION>", "<OD>")) -> Served:
    return Served(checkpoint, "auto", "auto", None, prompts, 300.0)


MODELS = (
    served(Checkpoint("Toy", Path("toy"))),
    served(Checkpoint("fine", repository="owner/Florence-X"), ("<SPECIAL>",)),
    served(Checkpoint("owner/other", repository="owner/other")),
)
GIF = b"GIF89a\1\0\1\0\0\0\0\x2c\0\0\0\0\1\0\1\0\0"


def test_no_options_are_the_defaults() -> None:
    assert options_of({}) == Options()
    assert options_of({"options": {}}) == options_of({"options": None}) == options_of({"options": "{}"}) == Options()
    assert options_of({"options": {"num_beams": None}}) == Options()


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("num_beams", 1, 1),
        ("num_beams", 8.0, 8),
        ("num_beams", "5", 5),
        ("max_new_tokens", 1024, 1024),
        ("no_repeat_ngram_size", 0, 0),
        ("length_penalty", -0.5, -0.5),
        ("length_penalty", "2", 2.0),
        ("early_stopping", False, False),
        ("early_stopping", "False", False),
        ("early_stopping", "1", True),
    ],
)
def test_each_option_in_each_form(name: str, raw: Any, value: Any) -> None:
    expected = Options(**{name: value})
    assert options_of({"options": {name: raw}}) == expected
    assert options_of({name: raw}) == expected
    assert type(getattr(options_of({name: raw}), name)) is type(value)


def test_the_object_wins_over_a_field_of_the_name() -> None:
    assert options_of({"options": '{"num_beams": 2}', "num_beams": "5"}).num_beams == 2


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("num_beams", 0),
        ("num_beams", 9),
        ("num_beams", 1.5),
        ("num_beams", True),
        ("num_beams", "three"),
        ("num_beams", [3]),
        ("num_beams", 10**400),
        ("max_new_tokens", 0),
        ("max_new_tokens", 4097),
        ("no_repeat_ngram_size", -1),
        ("length_penalty", math.nan),
        ("length_penalty", math.inf),
        ("length_penalty", 9),
        ("early_stopping", "never"),
        ("early_stopping", 2),
        ("temperature", 1),
    ],
)
def test_what_is_out_of_bounds_is_refused(name: str, raw: Any) -> None:
    with pytest.raises(BadOption, match=name):
        options_of({"options": {name: raw}})


@pytest.mark.parametrize("options", ["[1]", "{", "1", [], 7, "[" * 100_000])
def test_options_that_are_no_object(options: Any) -> None:
    with pytest.raises(BadOption):
        options_of({"options": options})


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        (None, None),
        ("", None),
        (0, 0.0),
        ("0", 0.0),
        (90, 90.0),
        (1.5, 1.5),
        ("300", 300.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        (-1, -1.0),
        ("-1", -1.0),
        ("-5m", -1.0),
        (-0.001, -1.0),
    ],
)
def test_keep_alive(raw: Any, seconds: float | None) -> None:
    assert read({"keep_alive": raw}, "keep_alive") == seconds


@pytest.mark.parametrize("raw", ["soon", "5 minutes", "5d", math.nan, "inf", 1e10, "1e300h", True, [], "9" * 400 + "h"])
def test_keep_alive_that_is_no_time(raw: Any) -> None:
    with pytest.raises(BadOption, match="keep_alive"):
        read({"keep_alive": raw}, "keep_alive")


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("", "Toy"),
        ("Toy", "Toy"),
        ("toy", "Toy"),
        ("TOY:latest", "Toy"),
        ("fine", "fine"),
        ("Owner/Florence-X", "fine"),
        ("owner/florence-x:LATEST", "fine"),
        ("owner/other", "owner/other"),
    ],
)
def test_the_model_by_name(name: str, means: str) -> None:
    assert pick(name, MODELS).name == means


@pytest.mark.parametrize("name", ["Toys", "toy:v2", "../toy", "latest", ":latest", "owner", "owner/florence-x/toy"])
def test_an_unknown_model_is_refused_with_those_that_are_here(name: str) -> None:
    with pytest.raises(ModelNotFound, match="Toy, fine, owner/other"):
        pick(name, MODELS)


def test_a_name_wins_over_a_repository_of_that_name() -> None:
    other = served(Checkpoint("Owner/Florence-X", repository="owner/third"))
    assert pick("owner/florence-x", [*MODELS, other]) is other


def test_of_two_with_one_repository_the_first_is_meant_by_it() -> None:
    twin = served(Checkpoint("twin", repository="owner/Florence-X"))
    assert pick("owner/florence-x", [*MODELS, twin]).name == "fine"
    assert pick("twin", [*MODELS, twin]) is twin


def test_a_request_is_for_its_model_and_knows_its_prompts() -> None:
    fields = {"image": GIF, "model": "FINE", "prompt": "special"}
    request = to_request(fields, "id", MODELS, Settings())
    assert (request.model, request.task) == ("fine", "<SPECIAL>")
    assert to_request({"image": GIF}, "id", MODELS, Settings()).model == "Toy"
    with pytest.raises(UnknownPrompt, match="<OD>"):
        to_request({**fields, "model": "toy"}, "id", MODELS, Settings())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
)
NAMES = ("prompt", "text_input", "region", "options", "model", "keep_alive", "num_beams")


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4))
def test_any_fields_make_a_request_or_a_client_error(fields: dict[str, Any]) -> None:
    status = 0
    try:
        to_request({**fields, "image": GIF}, "id", MODELS, Settings())
    except VisionError as error:
        status = error.status
    assert status in (0, 400, 404)
