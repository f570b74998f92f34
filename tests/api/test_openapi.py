"""/openapi.json: that it is valid, complete, open, and says what the server does."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from vision_server.api import page
from vision_server.api.app import create_app
from vision_server.api.fields import CHAT, FIELDS, LOOKING, OLLAMA_OPTIONS, OPTIONS, read
from vision_server.api.guard import OPEN_PATHS
from vision_server.api.kserve import BINARY
from vision_server.api.ollama_replies import LINES
from vision_server.api.openai_replies import EVENTS
from vision_server.api.openapi import JSON, PLAIN_ERROR, named, schema_of
from vision_server.api.surface import DOCUMENT, OPERATIONS
from vision_server.api.tensors import JSON_LENGTH
from vision_server.errors import BadSetting, MethodNotAllowed, VisionError, every_error
from vision_server.settings import Settings
from vision_server.tasks import TASKS, answer, parse_fields

from .asking import BASE64, ask, asking, tensors
from .conftest import Serve
from .ollama_asking import chatting

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
LOCATED = "a car<loc_1><loc_2><loc_300><loc_400><loc_5><loc_6><loc_700><loc_800>"
OUTLINED = "a car<poly><loc_1><loc_2><loc_300><loc_400><loc_5><loc_600></poly>"


def validator(schema: dict[str, Any]) -> Any:
    return jsonschema_rs.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def test_it_is_a_valid_document_and_a_broken_one_is_told() -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()
    broken = copy.deepcopy(DOCUMENT)
    broken["paths"]["/status"]["get"]["responses"]["200"].pop("description")
    with pytest.raises(jsonschema_rs.ValidationError):
        schemathesis.openapi.from_dict(broken).validate()


def test_every_schema_and_reference_in_it_is_sound() -> None:
    for reference in re.findall(r'"\$ref": "#/(.*?)"', json.dumps(DOCUMENT)):
        found: Any = DOCUMENT
        for step in reference.split("/"):
            found = found[step]
    schemas = [*DOCUMENT["components"]["schemas"].values()]
    schemas += [schema for operation in OPERATIONS for schema in (operation.body or {}).values()]
    for schema in schemas:
        assert jsonschema_rs.meta.is_valid({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_the_routes_are_those_described(folder: Path) -> None:
    app = create_app(Settings(model=str(folder)))
    routed = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert routed == described == {(operation.method, operation.path) for operation in OPERATIONS}


def test_those_without_a_key_are_the_guards() -> None:
    files = {path for path in page.PATHS if path.startswith("/page/")}
    described = {operation.path for operation in OPERATIONS if operation.is_open}
    assert described == OPEN_PATHS - files | {"/page/{name}"}


def test_every_field_is_in_each_form_and_in_the_readme() -> None:
    asking = DOCUMENT["paths"]["/process_image"]["post"]
    fields = {*FIELDS, *OPTIONS}
    content = asking["requestBody"]["content"]
    assert {name for name in content if "/" in name} == {JSON, "multipart/form-data", "image/*"}
    for form in (JSON, "multipart/form-data"):
        assert set(content[form]["schema"]["properties"]) == {"image", *fields}
    assert {one["name"] for one in asking["parameters"] if "name" in one} == fields
    api = README.partition("## API")[2].partition("\n## ")[0]
    for name in [*fields, *LOOKING]:
        assert re.search(rf"`\??{name}\b", api), name


def test_the_handlers_read_no_field_past_the_table() -> None:
    """A body's fields pass through `bodies`; all else is `read(request.query, "name")`, which knows its names."""
    for path in (Path(__file__).parents[2] / "vision_server/api").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "bodies.py":
            assert text.count(".query") == text.count("read(request.query, ") + text.count("operation.query"), path.name


def test_every_example_is_what_it_is_an_example_of() -> None:
    shown = 0
    for operation in OPERATIONS:
        taken = {} if operation.needs_body is False else operation.body or {}
        assert JSON not in taken or taken[JSON]["examples"], operation.path
        for schema in (operation.body or {}).values():
            for example in schema.get("examples", []):
                validator(schema).validate(example)
                shown += 1
    assert shown >= 7


def test_where_the_json_of_a_tensors_body_ends_is_described() -> None:
    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
        infer = DOCUMENT["paths"][path]["post"]
        [length] = [one for one in infer["parameters"] if one.get("name") == JSON_LENGTH]
        assert (length["in"], length.get("required", False)) == ("header", False)
        assert length["schema"]["type"] == "integer"
        assert not infer["responses"]["200"]["headers"][JSON_LENGTH].get("required", False)


def test_every_error_is_described_with_its_status() -> None:
    codes: dict[str, set[str]] = {}
    for methods in DOCUMENT["paths"].values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                schema = response["content"].get(JSON, {}).get("schema", {})
                if status != "200" and schema != named(PLAIN_ERROR):
                    [own] = [one["properties"] for one in schema["allOf"][1:]]
                    own = own["error"]["properties"] if "error" in own else own
                    codes.setdefault(status, set()).update(own["code"]["enum"])
                assert ("Retry-After" in response["headers"]) == (status in ("429", "503"))
                assert "X-Request-Id" in response["headers"]
    expected: dict[str, set[str]] = {}
    for error in {*every_error()} - {MethodNotAllowed, BadSetting}:
        expected.setdefault(str(error.status), set()).add(error.code)
    assert codes == expected


SCALARS = {
    **OPTIONS,
    **LOOKING,
    **CHAT,
    **OLLAMA_OPTIONS,
    **{name: FIELDS[name] for name in FIELDS if name not in ("region", "options")},
}
IN_JSON = {name: validator(field.in_json) for name, field in SCALARS.items()}
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-5000, 5000)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(), st.none(), max_size=1)
)


@given(st.sampled_from(sorted(SCALARS)), VALUES)
def test_what_is_accepted_is_what_is_described(name: str, value: Any) -> None:
    try:
        read({name: value}, name)
        accepted = True
    except VisionError:
        accepted = False
    assert accepted == IN_JSON[name].is_valid(value)


@given(st.sampled_from(sorted(SCALARS)), st.text(max_size=12) | st.from_regex(r"\A-?[0-9]{1,4}[msh.]?[0-9]?\Z"))
def test_text_that_is_accepted_is_described(name: str, text: str) -> None:
    """Save for white space around it and the letter case of true and false, which nobody needs to know."""
    try:
        read({name: text}, name)
    except VisionError:
        return
    assert IN_JSON[name].is_valid(text if SCALARS[name].plain == {"type": "string"} else text.strip().lower())


@pytest.mark.parametrize("name", [name for name in OPTIONS if "minimum" in OPTIONS[name].plain])
def test_the_bounds_are_the_checks(name: str) -> None:
    low, high = OPTIONS[name].plain["minimum"], OPTIONS[name].plain["maximum"]
    for value in (low, high, str(low), str(high)):
        assert read({name: value}, name) == float(value)
    for value in (low - 1, high + 1, str(low - 1), str(high + 1), math.nan):
        with pytest.raises(VisionError):
            read({name: value}, name)


def test_every_answer_there_can_be_is_described() -> None:
    described = validator({"$ref": "#/components/schemas/Result"})
    for task in TASKS:
        for text in ("", "a text", LOCATED, OUTLINED):
            described.validate(json.loads(json.dumps(answer(task.token, text, (640, 480)))))
            if task.fields:
                described.validate(parse_fields(task.token, "a car\ncar, road\ncamera: near, style: NA"))
    wrongs: tuple[Any, ...] = (7, {}, {"bboxes": [[1, 2, 3]], "labels": ["x"]}, {"bboxes": []})
    for wrong in wrongs:
        assert not described.is_valid(wrong)


@pytest.mark.parametrize("kind", [web.Application, dict])
def test_a_type_without_a_schema_is_an_error(kind: Any) -> None:
    with pytest.raises((KeyError, IndexError)):
        schema_of(kind)


async def test_it_is_served_without_a_key_but_not_under_a_foreign_name(serve: Serve) -> None:
    client = await serve(api_key="k" * 20)
    response = await client.get("/openapi.json")
    assert (response.status, response.content_type) == (200, JSON)
    assert await response.json() == DOCUMENT
    assert (await client.get("/status")).status == 401
    assert (await client.get("/openapi.json", headers={"Host": "evil.example"})).status == 403


async def test_what_the_calls_answer_is_described(serve: Serve) -> None:
    client = await serve()
    assert (await ask(client, prompt="OD", raw=True))[0] == 200
    files = {page.CSS: "style.css", page.JAVASCRIPT: "app.js", page.SVG: "favicon.svg"}
    for operation in OPERATIONS:
        described = operation.path.format(id="toy", model="toy", version="1", name="{name}")
        described += "?all=1" if described == "/prompts" else ""
        for kind in operation.answer:
            path = described.replace("{name}", files.get(kind, ""))
            messages = chatting()["messages"] if operation.path == "/api/chat" else asking([BASE64])
            body = {"image": BASE64, "images": [BASE64], "messages": messages, "stream": kind in (EVENTS, LINES)}
            body |= {"model": "toy", **tensors(BASE64), "parameters": {"binary_data_output": kind == BINARY}}
            sent = {"json": body} if operation.body else {}
            response = await client.request(operation.method, path, headers={"Accept": kind}, **sent)
            assert (response.status, response.content_type) == (200, kind), operation.path
            assert (JSON_LENGTH in response.headers) == (kind == BINARY)
            assert operation.timings <= ("Server-Timing" in response.headers)
            answered = await response.json() if kind == JSON else (await response.read()).decode("utf-8", "replace")
            validator(operation.answer[kind]).validate(answered)
