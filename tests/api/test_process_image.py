"""POST /process_image: every way a picture can come, prompts, inputs, and what is refused before anything loads."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import FormData

from .asking import BASE64, PNG, ask, png
from .conftest import Serve


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", None])
@pytest.mark.parametrize(
    "image",
    [
        BASE64,
        "data:image/png;base64," + BASE64,
        "DATA:IMAGE/PNG;BASE64," + BASE64,
        "data:;base64," + BASE64,
        "data:text/html;charset=utf-8;base64," + BASE64,
        "data:image/png;base64," + quote(BASE64, safe=""),
        "data:image/png;base64," + BASE64.replace("+", "%2b").replace("/", "%2f").replace("=", "%3d"),
        " \n" + "\r\n".join(BASE64[at : at + 20] for at in range(0, len(BASE64), 20)) + "\n",
    ],
    ids=["bare", "data", "DATA", "no type", "wrong type", "escaped", "escaped in small letters", "line breaks"],
)
async def test_json_whatever_type_is_declared(serve: Serve, image: str, content_type: str | None) -> None:
    client = await serve()
    body = json.dumps({"image": image, "prompt": "<FAKE>"}).encode()
    headers = {"Content-Type": content_type} if content_type else {}
    response = await client.post(
        "/process_image", data=body, headers=headers, skip_auto_headers=[] if content_type else ["Content-Type"]
    )
    assert (response.status, await response.json()) == (200, {"result": f"<FAKE>||{len(PNG)}"})


async def test_every_way_gives_the_same_answer(serve: Serve) -> None:
    client = await serve()
    expected = {"result": f"<FAKE>|what|{len(PNG)}"}

    def form(**fields: Any) -> FormData:
        data = FormData()
        data.add_field("image", PNG, filename="a picture.png", content_type="application/octet-stream")
        for name, value in fields.items():
            data.add_field(name, value)
        return data

    ways: list[tuple[str, dict[str, Any]]] = [
        ("", {"json": {"image": BASE64, "prompt": "FAKE", "text_input": "what"}}),
        ("?prompt=fake", {"json": {"image": BASE64, "text_input": "what"}}),
        ("", {"data": form(prompt="FAKE", text_input="what")}),
        ("?text_input=what", {"data": form(prompt="FAKE")}),
        ("?prompt=FAKE&text_input=no", {"data": form(text_input="what")}),
        ("?prompt=FAKE&text_input=what", {"data": PNG}),
        ("?prompt=FAKE&text_input=what", {"data": PNG, "headers": {"Content-Type": "image/jpeg"}}),
        ("?prompt=FAKE&text_input=what", {"data": PNG, "headers": {"Content-Type": "application/json"}}),
        ("?prompt=%3CFAKE%3E&text_input=what&num_beams=1", {"data": PNG}),
    ]
    for query, body in ways:
        response = await client.post("/process_image" + query, **body)
        assert (response.status, await response.json()) == (200, expected), (query, body.keys())


async def test_a_form_may_hold_base64_text(serve: Serve) -> None:
    client = await serve()
    data = FormData({"image": "data:image/png;base64," + BASE64, "prompt": "FAKE"}, default_to_multipart=True)
    response = await client.post("/process_image", data=data)
    assert (response.status, await response.json()) == (200, {"result": f"<FAKE>||{len(PNG)}"})


@pytest.mark.parametrize("prompt", ["<FAKE>", "FAKE", "fake", "<fake>", " <Fake> "])
async def test_a_prompt_in_any_case_with_or_without_brackets(serve: Serve, prompt: str) -> None:
    client = await serve()
    assert await ask(client, prompt=prompt) == (200, {"result": f"<FAKE>||{len(PNG)}"})


async def test_the_default_prompt(serve: Serve) -> None:
    assert (await ask(await serve()))[1]["result"].startswith("<CAPTION>|")
    assert (await ask(await serve(default_prompt="fake")))[1]["result"].startswith("<FAKE>|")
    assert (await ask(await serve(), prompt=None))[1]["result"].startswith("<CAPTION>|")


async def test_any_row_is_taken_and_anything_else_lists_them(serve: Serve) -> None:
    client = await serve()
    assert (await ask(client, prompt="generate_tags"))[0] == 200
    status, error = await ask(client, prompt="DESCRIBE_IT")
    assert (status, error["code"]) == (400, "unknown_prompt")
    assert "<CAPTION>" in error["error"]
    assert "<FAKE>" in error["error"]


async def test_objects_come_as_objects(serve: Serve) -> None:
    status, body = await ask(await serve(), prompt="OD")
    assert status == 200
    assert set(body["result"]) == {"bboxes", "labels"}


REGIONS = [[1, 2, 30, 40], "1,2,30,40", "<loc_1><loc_2><loc_300><loc_400>", [1.5, 2, 30.25, 40]]


@pytest.mark.parametrize("region", REGIONS)
async def test_a_region_in_each_of_its_forms(serve: Serve, region: Any) -> None:
    assert (await ask(await serve(), prompt="REGION_TO_CATEGORY", region=region))[0] == 200


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"prompt": "REGION_TO_CATEGORY"}, 400, "bad_input"),
        ({"prompt": "REGION_TO_CATEGORY", "region": [1, 2, 3]}, 400, "bad_input"),
        ({"prompt": "REGION_TO_CATEGORY", "region": {"x": 1}}, 400, "bad_input"),
        ({"prompt": "REGION_TO_CATEGORY", "region": [5, 5, 1, 1]}, 400, "bad_input"),
        ({"prompt": "REGION_TO_CATEGORY", "region": [1, 2, 3, "4"]}, 400, "bad_input"),
        ({"prompt": "REGION_TO_CATEGORY", "region": [1, 2, 3, 10**400]}, 400, "bad_input"),
        ({"prompt": "CAPTION", "region": [1, 2, 3, 4]}, 400, "bad_input"),
        ({"prompt": "CAPTION", "text_input": "x"}, 400, "bad_input"),
        ({"prompt": "CAPTION_TO_PHRASE_GROUNDING"}, 400, "bad_input"),
        ({"prompt": "CAPTION_TO_PHRASE_GROUNDING", "text_input": "\ud800"}, 400, "bad_input"),
        ({"prompt": "CAPTION_TO_PHRASE_GROUNDING", "text_input": "x" * 20_000}, 400, "prompt_too_long"),
        ({"prompt": "CAPTION_TO_PHRASE_GROUNDING", "text_input": 7}, 400, "bad_request"),
        ({"prompt": ["CAPTION"]}, 400, "bad_request"),
        ({"prompt": "\ud800"}, 400, "unknown_prompt"),
        ({"image": ""}, 400, "bad_request"),
        ({"image": None}, 400, "bad_request"),
        ({"image": 5}, 400, "bad_request"),
        ({"image": [BASE64]}, 400, "bad_request"),
        ({"image": "not base64!"}, 400, "bad_request"),
        ({"image": "ümläut"}, 400, "bad_request"),
        ({"image": BASE64[:-3]}, 400, "bad_request"),
        ({"image": "_" + BASE64[1:]}, 400, "bad_request"),
        ({"image": "data:image/png," + "%89PNG"}, 400, "bad_request"),
        ({"image": "https://example.com/a.png"}, 422, "image_refused"),
        ({"image": "file:///etc/passwd"}, 422, "image_refused"),
        ({"image": base64.b64encode(b"hello, world").decode()}, 415, "bad_image"),
        ({"image": base64.b64encode(PNG[:20]).decode()}, 415, "bad_image"),
        ({"image": base64.b64encode(png((16_385, 1))).decode()}, 422, "image_refused"),
        ({"model": "gpt-4o"}, 404, "model_not_found"),
        ({"model": 3}, 400, "bad_request"),
        ({"options": {"num_beams": 9}}, 400, "bad_option"),
        ({"options": {"num_beans": 2}}, 400, "bad_option"),
        ({"options": [1]}, 400, "bad_option"),
        ({"keep_alive": "soon"}, 400, "bad_option"),
    ],
)
async def test_what_is_wrong_is_said_before_anything_loads(
    serve: Serve, fields: dict[str, Any], status: int, code: str
) -> None:
    client = await serve()
    got, error = await ask(client, **fields)
    assert (got, error["code"]) == (status, code), error
    assert error["error"] == error["detail"]
    assert (await (await client.get("/status")).json())["state"] == "unloaded"


async def test_too_many_pixels(serve: Serve) -> None:
    client = await serve(max_pixels_m=0.003)
    assert (await ask(client))[1]["code"] == "too_large"
    assert (await ask(client, image=base64.b64encode(png((50, 50))).decode()))[0] == 200


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b'"text"', {}, 400),
        (b'{"image": NaN}', {}, 400),
        (b"[" * 100_000, {}, 400),
        (b'{"image": ' + b"1" * 10_000 + b"}", {}, 400),
        (b" \n", {}, 400),
        (b"hello", {"Content-Type": "application/json"}, 400),
        (b"\xff\xfe\x00", {}, 415),
        (b"hello", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b"{}", {"Content-Type": "image/png"}, 400),
        (b"hello", {"Content-Type": "image/png"}, 415),
        (b"hello", {"Content-Type": "multipart/form-data"}, 400),
        (b"hello", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        (b"--x\r\n\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        (
            b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--x--",
            {"Content-Type": "multipart/form-data; boundary=x"},
            400,
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\xff\r\n--x--\r\n',
            {"Content-Type": "multipart/form-data; boundary=x"},
            400,
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 40 + b"--x--\r\n",
            {"Content-Type": "multipart/form-data; boundary=x"},
            400,
        ),
        (b"not gzip", {"Content-Encoding": "gzip"}, 400),
    ],
)
async def test_a_body_that_cannot_be_read(serve: Serve, body: bytes, headers: dict[str, str], status: int) -> None:
    client = await serve()
    response = await client.post("/process_image", data=body, headers=headers)
    assert response.status == status, await response.text()
    assert set(await response.json()) == {"error", "detail", "code", "request_id"}
