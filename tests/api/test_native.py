"""The native calls end to end: a real socket, the real queue, a real worker process without a model."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import FormData
from PIL import Image

from vision_server.api.keys import QUEUE
from vision_server.tasks import STOCK

from .conftest import Client, Serve

StatusBecomes = Callable[..., Awaitable[dict[str, Any]]]


def png(size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()
BASE64 = base64.b64encode(PNG).decode()


async def ask(client: Client, **fields: Any) -> tuple[int, dict[str, Any]]:
    response = await client.post("/process_image", json={"image": BASE64, **fields})
    return response.status, await response.json()


# The ways a picture can come ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", None])
@pytest.mark.parametrize(
    "image",
    [
        BASE64,
        "data:image/png;base64," + BASE64,
        "DATA:IMAGE/PNG;BASE64," + BASE64,
        "data:;base64," + BASE64,
        "data:text/html;charset=utf-8;base64," + BASE64,
        " \n" + "\r\n".join(BASE64[at : at + 20] for at in range(0, len(BASE64), 20)) + "\n",
    ],
    ids=["bare", "data", "DATA", "no type", "wrong type", "line breaks"],
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


# Prompts and inputs ------------------------------------------------------------------------------------------------


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


# Options -----------------------------------------------------------------------------------------------------------


async def test_the_model_may_be_named(serve: Serve) -> None:
    client = await serve()
    for name in ("toy", "TOY", "toy:latest", ""):
        assert (await ask(client, model=name))[0] == 200


async def test_keep_alive_is_the_idle_time_after_the_request(serve: Serve, status_becomes: StatusBecomes) -> None:
    client = await serve()
    assert (await ask(client, keep_alive="5m"))[0] == 200
    assert 299 < (await (await client.get("/status")).json())["idle_unload_in_s"] <= 300
    assert (await ask(client, keep_alive=-1))[0] == 200
    assert (await (await client.get("/status")).json())["idle_unload_in_s"] is None
    assert (await ask(client, keep_alive=0))[0] == 200
    await status_becomes(client, state="unloaded", worker_pid=None)


# Answers -----------------------------------------------------------------------------------------------------------


async def test_ids_and_timings_are_on_every_answer(serve: Serve) -> None:
    client = await serve()
    response = await client.post("/process_image", json={"image": BASE64}, headers={"X-Request-Id": "mine-1"})
    assert response.headers["X-Request-Id"] == "mine-1"
    timings = dict(part.split(";dur=") for part in response.headers["Server-Timing"].split(", "))
    assert list(timings) == ["queue", "load", "decode", "encode", "generate"]
    assert float(timings["load"]) > 0
    assert (float(timings["decode"]), float(timings["encode"]), float(timings["generate"])) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("given", ["two words", "x" * 129, "ü", ""])
async def test_an_id_that_is_not_sound_is_replaced(serve: Serve, given: str) -> None:
    client = await serve()
    response = await client.get("/nowhere", headers={"X-Request-Id": given})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["X-Request-Id"])
    assert (await response.json())["request_id"] == response.headers["X-Request-Id"]


async def test_plain_text_for_clients_that_ask_for_it(serve: Serve) -> None:
    client = await serve()
    plain = {"Accept": "text/plain"}

    async def text(method: str, path: str, **body: Any) -> tuple[int, str, str]:
        response = await client.request(method, path, headers=plain, **body)
        return response.status, response.content_type, await response.text()

    kind = "text/plain"
    assert await text("POST", "/process_image?prompt=FAKE", data=PNG) == (200, kind, f"<FAKE>||{len(PNG)}")
    status, _, line = await text("POST", "/process_image?prompt=OD", data=PNG)
    assert status == 200
    assert "\n" not in line
    assert set(json.loads(line)) == {"bboxes", "labels"}
    assert await text("GET", "/prompts") == (200, kind, "".join(f"{p}\n" for p in (*STOCK, "<FAKE>")))
    assert await text("GET", "/model") == (200, kind, "toy")
    assert await text("GET", "/health") == (200, kind, "ok")
    assert json.loads((await text("GET", "/status"))[2])["model"] == "toy"
    status, _, message = await text("POST", "/process_image?prompt=NO", data=PNG)
    assert status == 400
    assert message.startswith("This prompt is not known")


async def test_text_is_utf8_in_both_forms(serve: Serve) -> None:
    client = await serve()
    fields = {"image": BASE64, "prompt": "FAKE", "text_input": "café 🦊"}
    expected = f"<FAKE>|café 🦊|{len(PNG)}"
    response = await client.post("/process_image", json=fields)
    assert (await response.read()).decode("utf-8") == json.dumps({"result": expected}, ensure_ascii=False)
    response = await client.post("/process_image", json=fields, headers={"Accept": "text/plain"})
    assert (await response.read()).decode("utf-8") == expected


# Looking, loading, unloading ---------------------------------------------------------------------------------------


async def test_looking_never_loads_nor_touches_the_idle_clock(serve: Serve) -> None:
    client = await serve()
    paths = ("/status", "/health", "/ready", "/prompts", "/model")
    for path in paths:
        assert (await client.get(path)).status == 200
    status = await (await client.get("/status")).json()
    assert (status["state"], status["loads"], status["worker_pid"]) == ("unloaded", 0, None)
    assert (await ask(client))[0] == 200
    left = []
    for _ in range(3):
        for path in paths:
            await client.get(path)
        left.append((await (await client.get("/status")).json())["idle_unload_in_s"])
    assert left == sorted(left, reverse=True)
    assert len(set(left)) == 3


async def test_status_has_what_the_contract_names(serve: Serve) -> None:
    status = await (await (await serve()).get("/status")).json()
    named = "state model device queue_depth queue_capacity in_flight idle_unload_in_s load_phase load_bytes_done"
    named += " load_bytes_total loads unloads last_load_s worker_pid worker_rss_bytes worker_device_bytes"
    assert set(named.split()) <= set(status)
    assert (status["model"], status["device"], status["queue_capacity"]) == ("toy", "auto", 256)


async def test_prompts_and_model(serve: Serve) -> None:
    client = await serve()
    assert await (await client.get("/prompts")).json() == [*STOCK, "<FAKE>"]
    assert await (await client.get("/model")).json() == "toy"
    assert (await client.head("/prompts")).status == 200


async def test_load_then_unload(serve: Serve) -> None:
    client = await serve()
    loaded = await (await client.post("/load")).json()
    assert (loaded["state"], loaded["loads"]) == ("ready", 1)
    assert psutil.pid_exists(loaded["worker_pid"])
    unloaded = await (await client.post("/unload")).json()
    assert (unloaded["state"], unloaded["unloads"], unloaded["worker_pid"]) == ("unloaded", 1, None)
    assert not psutil.pid_exists(loaded["worker_pid"])
    assert (await client.post("/unload")).status == 200
    assert (await client.post("/unload?force=perhaps")).status == 400


async def test_unload_is_refused_while_busy_unless_forced(
    serve: Serve, status_becomes: StatusBecomes, tmp_path: Path
) -> None:
    client = await serve()
    gate = tmp_path / "gate"
    running = asyncio.create_task(ask(client, prompt="FAKE", text_input=f"gate:{gate}"))
    await status_becomes(client, in_flight=1)
    refused = await client.post("/unload")
    assert (refused.status, (await refused.json())["code"]) == (409, "busy")
    forced = asyncio.create_task(client.post("/unload?force=1"))
    gate.touch()
    assert (await running)[0] == 200
    assert (await (await forced).json())["state"] == "unloaded"


async def test_a_failed_load_is_503_and_ready_says_why(serve: Serve) -> None:
    client = await serve("--load", "fail")
    assert (await client.get("/ready")).status == 200
    response = await client.post("/process_image", json={"image": BASE64})
    assert response.status == 503
    assert 1 <= int(response.headers["Retry-After"]) <= 120
    assert "cannot be loaded" in (await response.json())["error"]
    ready = await client.get("/ready")
    assert ready.status == 503
    assert "cannot be loaded" in (await ready.json())["error"]
    assert (await client.get("/health")).status == 200


async def test_draining_is_said(serve: Serve) -> None:
    client = await serve()
    await client.server.app[QUEUE].drain()  # type: ignore[attr-defined]
    for path in ("/ready", "/health"):
        response = await client.get(path)
        assert response.status == 503
        assert "shutting down" in (await response.json())["error"]
    assert (await ask(client))[0] == 503


# Failures of the worker, of the client, of ourselves ---------------------------------------------------------------


async def test_a_broken_picture_found_by_the_worker_is_415(serve: Serve) -> None:
    status, error = await ask(await serve(), prompt="FAKE", text_input="bad")
    assert (status, error["code"]) == (415, "bad_image")


async def test_a_request_that_kills_the_worker_twice_is_500(serve: Serve) -> None:
    status, error = await ask(await serve(), prompt="FAKE", text_input="crash")
    assert (status, error["code"]) == (500, "worker_crash")


async def test_a_full_queue_is_429_before_the_body_is_read(serve: Serve, status_becomes: StatusBecomes) -> None:
    client = await serve("--slots", "1", max_queue=1)
    await client.post("/load")
    held = [asyncio.create_task(ask(client, prompt="FAKE", text_input="hold")) for _ in range(2)]
    await status_becomes(client, queue_depth=1, in_flight=1)
    async with aiohttp.ClientSession() as session:
        response = await session.post(client.make_url("/process_image"), data=b"not even a picture")
        assert (response.status, (await response.json())["code"]) == (429, "queue_full")
        assert 1 <= int(response.headers["Retry-After"]) <= 120
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    await status_becomes(client, queue_depth=0, in_flight=0)


async def test_a_request_that_waits_too_long_is_504(serve: Serve) -> None:
    client = await serve(request_timeout_s=0.001)
    status, error = await ask(client)
    assert (status, error["code"]) == (504, "timeout")


async def test_a_client_that_leaves_takes_its_request_along(serve: Serve, status_becomes: StatusBecomes) -> None:
    client = await serve("--slots", "1")
    body = json.dumps({"image": BASE64, "prompt": "FAKE", "text_input": "hold"}).encode()
    request = b"POST /process_image HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    sockets = []
    for _ in range(3):
        connection = socket.create_connection(("127.0.0.1", client.port or 0))
        connection.sendall(request)
        sockets.append(connection)
    await status_becomes(client, in_flight=1, queue_depth=2)
    sockets[2].close()
    await status_becomes(client, in_flight=1, queue_depth=1)
    sockets[0].close()
    await status_becomes(client, in_flight=1, queue_depth=0)
    sockets[1].close()
    await status_becomes(client, in_flight=0, queue_depth=0)
    assert (await ask(client, prompt="FAKE"))[0] == 200


async def test_a_slow_body_is_408(serve: Serve) -> None:
    client = await serve(body_timeout_s=0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"POST /process_image HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()
    await writer.wait_closed()


async def test_bodies_over_the_limit_are_413(serve: Serve) -> None:
    client = await serve(max_body_mb=0.01)
    limit = int(0.01 * (1 << 20))
    padded = PNG + bytes(limit + 1 - len(PNG))
    assert (await client.post("/process_image", data=padded[:-1])).status == 200
    assert (await client.post("/process_image", data=padded)).status == 413
    assert (await ask(client, image=base64.b64encode(padded[:-1]).decode()))[0] == 200
    assert (await ask(client, image=base64.b64encode(padded).decode()))[1]["code"] == "too_large"
    form = FormData({"image": io.BytesIO(padded)})
    assert (await client.post("/process_image", data=form)).status == 413
    huge = bytes(3 << 20)
    for data, headers in (
        (io.BytesIO(huge), {}),
        (_chunks(huge), {}),
        (_chunks(b"--x\r\n\r\n" + huge), {"Content-Type": "multipart/form-data; boundary=x"}),
    ):
        async with aiohttp.ClientSession() as session:  # the server may close the connection under the upload
            try:
                response = await session.post(client.make_url("/process_image"), data=data, headers=headers)
            except aiohttp.ClientConnectionError:
                continue
            assert response.status == 413
            assert (await response.json())["code"] == "too_large"


async def _chunks(data: bytes) -> Any:
    for at in range(0, len(data), 1 << 16):
        yield data[at : at + (1 << 16)]


async def test_a_small_body_that_unpacks_to_a_large_one_is_413(serve: Serve) -> None:
    client = await serve(max_body_mb=0.01)
    bomb = gzip.compress(bytes(50 << 20))
    response = await client.post("/process_image", data=bomb, headers={"Content-Encoding": "gzip"})
    assert response.status == 413


async def test_unknown_paths_and_methods(serve: Serve) -> None:
    client = await serve()
    response = await client.get("/nowhere")
    assert (response.status, (await response.json())["code"]) == (404, "not_found")
    response = await client.get("/process_image")
    assert (response.status, (await response.json())["code"]) == (405, "method_not_allowed")
    assert response.headers["Allow"] == "POST"
    for method in ("DELETE", "PATCH", "OPTIONS", "TRACE"):
        response = await client.request(method, "/status")
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"


async def test_an_expectation_that_nobody_can_meet(serve: Serve) -> None:
    client = await serve()
    response = await client.get("/status", headers={"Expect": "miracles", "X-Request-Id": "mine"})
    assert response.status == 417
    assert response.headers["X-Request-Id"] == "mine"


async def test_a_large_body_may_wait_for_leave_to_be_sent(serve: Serve) -> None:
    client = await serve()
    response = await client.post("/process_image?prompt=FAKE", data=PNG, expect100=True)
    assert response.status == 200


async def test_a_fault_of_ours_is_neutral_outside_and_whole_in_the_log(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret at 0x7f00 in /home/somebody")

    monkeypatch.setattr("vision_server.api.native.answer", fail)
    status, error = await ask(await serve())
    assert (status, error["code"]) == (500, "internal")
    assert "secret" not in json.dumps(error)
    record = next(record for record in caplog.records if record.exc_info)
    assert "secret at 0x7f00" in str(record.exc_info)
    assert record.__dict__["request_id"] == error["request_id"]


async def test_pictures_and_prompts_are_not_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "vision_server")
    client = await serve()
    await client.post("/process_image?prompt=FAKE&text_input=private", data=PNG)
    assert "/process_image" in caplog.text
    assert "private" not in caplog.text
