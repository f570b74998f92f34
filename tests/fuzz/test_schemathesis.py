"""schemathesis against the published document: what a running daemon answers is what the document says."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.openapi.checks import JsonSchemaError, UndefinedStatusCode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.asking import tensors
from tests.daemon_process import GIF, Daemon
from tests.fuzz.conftest import REAL, Start
from tests.fuzz.corpus import FORMATS, corpus, sound
from vision_server.api.surface import OPERATIONS
from vision_server.api.tensors import JSON_LENGTH

BROKEN = [data for _, data in corpus(200)]
SOUND = [GIF, *(data for form in FORMATS for data in sound(form)[:1])]
PICTURES = st.sampled_from(SOUND) | st.sampled_from(BROKEN)
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
POSITIVE, NEGATIVE = GenerationMode("positive"), GenerationMode("negative")
LABELS = [f"{operation.method} {operation.path}" for operation in OPERATIONS]
WITH_PICTURES = {  # and what must come
    "POST /process_image": {200, 400, 415},
    "POST /v1/chat/completions": {200, 400},
    "POST /api/generate": {200, 400},
    "POST /api/chat": {200, 400},
    "POST /v2/models/{model}/infer": {200, 400},
}
ASKED: list[tuple[str, GenerationMode]] = [
    *((label, POSITIVE) for label in LABELS),
    *(  # what takes nothing, or any text, cannot be given anything wrong
        (f"{operation.method} {operation.path}", NEGATIVE)
        for operation in OPERATIONS
        if any(field.plain != {"type": "string"} for field in (operation.query or {}).values())
    ),
]

schemathesis.openapi.media_type("image/*", PICTURES)


def document(daemon: Daemon) -> Any:
    status, document = daemon.call("/openapi.json")
    assert status == 200
    schema = schemathesis.openapi.from_dict(document)
    schema.validate()
    return schema


def make_real(case: Any, picture: bytes, model: str) -> None:
    """What is not found by chance, or hides the rest: a picture's base64, a prompt that exists, the model's name."""
    known = {"id": model, "model": model, "version": "1", "name": "app.js"}
    case.path_parameters = {name: known[name] for name in case.path_parameters or {}}
    case.headers.pop(JSON_LENGTH, None)
    for fields in (case.query, case.body):
        if isinstance(fields, dict):
            for name in ("prompt", "model", "name", "text_input", "region"):
                fields.pop(name, None)
    if case.path == "/api/show":
        case.body = {"model": model}
    elif isinstance(case.body, dict):
        form = case.media_type == "multipart/form-data"
        encoded = base64.b64encode(picture).decode()
        if case.path == "/api/chat":
            case.body["messages"] = [{"role": "user", "content": "", "images": [encoded]}]
        elif case.path == "/api/generate":
            case.body["images"] = [encoded]
        elif "messages" in case.body:
            part = {"type": "image_url", "image_url": {"url": f"data:;base64,{encoded}"}}
            case.body["messages"] = [{"role": "user", "content": [part]}]
        elif "inputs" in case.body:
            case.body = {**tensors(encoded, "CAPTION"), "id": "x"}
        else:
            case.body["image"] = picture if form else encoded


def explore(daemon: Daemon, label: str, mode: GenerationMode, count: int, described: Any = None) -> set[int]:
    """Ask `count` generated requests of one operation, check each answer, and say which statuses came.

    `described` is what the daemon says of itself, unless something else is to be held against it.
    """
    schema = described or document(daemon)
    model = str(daemon.call("/model")[1])
    seen: set[int] = set()
    operation = schema.find_operation_by_label(label)
    body = "requestBody" in operation.definition.raw

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode), PICTURES, st.sampled_from([True, True, False]))
    def ask(case: Any, picture: bytes, real: bool) -> None:
        if real:
            make_real(case, picture, model)
        response = case.call(base_url=daemon.url, timeout=120)
        seen.add(response.status_code)
        case.validate_response(response, checks=CHECKS)
        if response.status_code != 503:
            case.validate_response(response, checks=[not_a_server_error])
        if mode is NEGATIVE and not body:
            case.validate_response(response, checks=[negative_data_rejection])

    ask()
    return seen


@pytest.fixture(scope="module")
def fake(start: Start) -> Daemon:
    return start()


@pytest.fixture(scope="module")
def real(start: Start) -> Daemon:
    return start("--model", "demo", command=REAL)


@pytest.mark.parametrize(("label", "mode"), ASKED)
def test_answers_are_as_described(fake: Daemon, label: str, mode: GenerationMode) -> None:
    seen = explore(fake, label, mode, 60 if label in WITH_PICTURES else 12)
    if mode is NEGATIVE:
        assert 400 in seen
    else:
        assert WITH_PICTURES.get(label, {200}) <= seen


def test_answers_of_the_real_worker_are_as_described(real: Daemon) -> None:
    assert {200, 400, 415} <= explore(real, "POST /process_image", POSITIVE, 60)
    assert real.call("/status")[1]["restarts"] == 0


@pytest.mark.parametrize(
    ("label", "failure"), [("POST /process_image", UndefinedStatusCode), ("GET /status", JsonSchemaError)]
)
def test_an_answer_that_is_not_described_would_be_found(fake: Daemon, label: str, failure: type[Exception]) -> None:
    _, described = fake.call("/openapi.json")
    del described["paths"]["/process_image"]["post"]["responses"]["415"]
    described["components"]["schemas"]["Status"]["properties"]["queue_depth"] = {"type": "string"}
    with pytest.raises(FailureGroup) as caught:
        explore(fake, label, POSITIVE, 60, schemathesis.openapi.from_dict(described))
    assert [one for one in caught.value.exceptions if isinstance(one, failure)]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("label", "mode"), ASKED)
def test_many_more_answers_are_as_described(real: Daemon, label: str, mode: GenerationMode) -> None:
    seen = explore(real, label, mode, 250 if label in WITH_PICTURES else 40)
    assert mode is NEGATIVE or WITH_PICTURES.get(label, {200}) <= seen
    assert real.call("/status")[1]["restarts"] == 0
