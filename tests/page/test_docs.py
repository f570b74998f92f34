"""The page at /docs: every call is on it, readable by everybody, and its lines for curl do what they say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from vision_server import demo
from vision_server.api.surface import DOCUMENT
from vision_server.settings import DEFAULT_MODEL

from .browsing import PHONE, SAMPLES, SCHEMES, Open, Page, expect, findings

pytestmark = pytest.mark.browser

CALLS = {f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods}
LEAST_LINES = {"POST /process_image": 3}  # a bare file, a form, JSON
LAST = "unload"  # the model is there until then


@pytest.fixture(scope="module")
def daemon() -> Iterator[str]:
    """The default checkpoint's name, which the examples say, is here the embedded one's too."""
    flags = {"model": "demo", "device": "cpu", "dtype": "float32", "model_aliases": f"{DEFAULT_MODEL}=demo"}
    with demo.running_daemon(flags) as url:
        yield url


def docs(open_page: Open, url: str, **context: Any) -> Page:
    page = open_page(f"{url}/docs", ready=False, **context)
    expect(page.locator("#calls")).not_to_have_attribute("aria-busy", "true")
    return page


def open_all(page: Page) -> None:
    page.evaluate("() => document.querySelectorAll('details').forEach((call) => { call.open = true; })")


def lines(page: Page) -> dict[str, list[str]]:
    """Those for curl, by call."""
    found = page.evaluate(
        """() => [...document.querySelectorAll('.call')].map((call) =>
            [call.dataset.call, [...call.querySelectorAll('.curl')].map((line) => line.textContent)])"""
    )
    return dict(found)


def test_every_call_is_there_with_all_that_is_known_of_it(open_page: Open, daemon: str) -> None:
    page = docs(open_page, daemon)
    open_all(page)
    assert set(lines(page)) == CALLS
    groups = page.locator("h2").all_text_contents()
    assert groups == page.locator("nav a").all_text_contents()
    assert {"native", "OpenAI", "Ollama", "KServe v2 (Triton)"} <= set(groups)
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            call = page.locator(f'[data-call="{method.upper()} {path}"]')
            text = call.text_content() or ""
            assert operation["summary"].replace("`", "") in text
            for parameter in operation["parameters"]:
                assert parameter.get("name", "X-Request-Id") in text
            for status, answer in operation["responses"].items():
                assert status == "200" or f"{status}{answer['description']}".replace("`", "") in text
                assert status != "200" or all(f"Answer: {kind}" in text for kind in answer["content"])
            for kind in operation.get("requestBody", {}).get("content", {}):
                assert f"Body: {kind}" in text


def test_a_field_is_told_with_its_kinds_and_what_it_is_unsaid(open_page: Open, daemon: str) -> None:
    page = docs(open_page, daemon)
    infer = page.locator('[data-call="POST /v2/models/{model}/infer"]')
    name = infer.locator("tr", has=page.locator("code", has_text="inputs[].name")).first
    assert '"INPUT_IMAGE" or "TASK_PROMPT" or "TEXT_PROMPT"required' in (name.text_content() or "")
    beams = infer.locator("tr", has=page.locator("code", has_text="parameters.num_beams")).first
    assert "Unless it is said: 3." in (beams.text_content() or "")


def test_every_example_is_allowed_where_it_is_shown(open_page: Open, daemon: str) -> None:
    page = docs(open_page, daemon)
    checked = 0
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            call = page.locator(f'[data-call="{method.upper()} {path}"]')
            shown = [json.loads(text) for text in call.locator(".example").all_text_contents()]
            contents = (operation.get("requestBody", {}), operation["responses"]["200"])
            described = [
                one["content"]["application/json"] for one in contents if "application/json" in one.get("content", {})
            ]
            for value, kind in zip(shown, described, strict=True):
                schema = {**kind["schema"], "components": DOCUMENT["components"]}
                jsonschema_rs.Draft202012Validator(schema).validate(value)
                checked += 1
    assert checked > 30


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_lines_for_curl_work(open_page: Open, daemon: str, tmp_path: Path) -> None:
    found = lines(docs(open_page, daemon))
    shutil.copy(SAMPLES / "scene-02.png", tmp_path / "picture.png")
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\nmax-time = 120\n")
    answers: dict[str, list[str]] = {}
    for call in sorted(found, key=lambda call: LAST in call):
        assert len(found[call]) >= LEAST_LINES.get(call, 1), call
        for line in found[call]:
            ran = subprocess.run(
                ["sh", "-c", line],
                cwd=tmp_path,
                env={"PATH": os.environ["PATH"], "CURL_HOME": str(tmp_path)},
                capture_output=True,
                text=True,
                timeout=180,
            )
            assert ran.returncode == 0, (line, ran.stdout, ran.stderr)
            answers.setdefault(call, []).append(ran.stdout)
    caption = json.loads(answers["POST /process_image"][0])["result"]
    assert len(caption) > 10
    assert [json.loads(one)["result"] for one in answers["POST /process_image"]] == [caption] * 3
    assert json.loads(answers["POST /v1/chat/completions"][0])["choices"][0]["message"]["content"] == caption
    assert json.loads(answers["POST /api/generate"][0])["response"] == caption
    assert json.loads(answers["POST /api/chat"][0])["message"]["content"] == caption
    for infer in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
        assert caption in json.loads(answers[f"POST {infer}"][0])["outputs"][0]["data"][0]


def test_it_is_drawn_without_a_key_and_from_here_alone(open_page: Open, fake: Any) -> None:
    with fake(api_key="a-key-of-20-characters") as url:
        page = docs(open_page, url)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.reload()
        expect(page.locator(".call").first).to_be_visible()
        assert {f"{url}/docs", f"{url}/openapi.json", f"{url}/page/docs.js", f"{url}/page/docs.css"} <= set(asked)
        assert all(one.startswith(f"{url}/") for one in asked)


def test_it_is_for_everybody_on_a_phone_too(open_page: Open, daemon: str) -> None:
    page = docs(open_page, daemon, **PHONE)
    wide = "() => document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= 390
    assert findings(page) == []
    page.locator('[data-call="POST /process_image"] summary').click()
    page.locator('[data-call="POST /v2/models/{model}/infer"] summary').click()
    assert findings(page) == []
    open_all(page)
    assert page.evaluate(wide) <= 390
    for scheme, _, _ in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) < 384) == (scheme == "dark")


def test_an_address_opens_its_call_and_a_line_is_copied(open_page: Open, daemon: str) -> None:
    page = docs(open_page, daemon)
    call = page.locator('[data-call="GET /status"]')
    page.goto(f"{daemon}/docs#{call.get_attribute('id')}")
    expect(call.locator(".curl")).to_be_in_viewport()
    call.locator("button").click()
    expect(call.locator("button")).to_have_text("Copied")
