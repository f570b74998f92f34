"""Answers, looking, loading and unloading: a real socket, the real queue, a real worker process without a model."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import psutil
import pytest

from vision_server.api.keys import QUEUE
from vision_server.tasks import STOCK, TASKS, parse_fields

from .asking import BASE64, PNG, StatusBecomes, ask
from .conftest import Serve


async def test_the_model_may_be_named(serve: Serve) -> None:
    client = await serve()
    for name in ("toy", "TOY", "toy:latest", ""):
        assert (await ask(client, model=name))[0] == 200


async def test_what_the_checkpoint_bans_from_grounding_is_left_out_of_that_alone(serve: Serve) -> None:
    client = await serve()
    for prompt, labels in (
        ("<CAPTION_TO_PHRASE_GROUNDING>", ["a car"]),
        ("<OPEN_VOCABULARY_DETECTION>", ["it", "a car"]),
    ):
        status, body = await ask(client, prompt=prompt, text_input="located")
        assert status == 200
        assert (body["result"].get("labels") or body["result"]["bboxes_labels"]) == labels


async def test_keep_alive_is_the_idle_time_after_the_request(serve: Serve, status_becomes: StatusBecomes) -> None:
    client = await serve()
    assert (await ask(client, keep_alive="5m"))[0] == 200
    assert 299 < (await (await client.get("/status")).json())["idle_unload_in_s"] <= 300
    assert (await ask(client, keep_alive=-1))[0] == 200
    assert (await (await client.get("/status")).json())["idle_unload_in_s"] is None
    assert (await ask(client, keep_alive=0))[0] == 200
    await status_becomes(client, state="unloaded", worker_pid=None)


async def test_every_start_of_the_daemon_is_told_from_the_one_before(serve: Serve) -> None:
    one, other = await serve(), await serve()
    ids = [(await (await client.get("/status")).json())["instance_id"] for client in (one, one, other)]
    assert ids[0] == ids[1] != ids[2]


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
    assert status["adapter"] is None


async def test_status_names_the_adapter_and_not_where_it_lies(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "my style"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    client = await serve(adapter=folder)
    assert (await (await client.get("/status")).json())["adapter"] == "my style"
    text = await (await client.get("/status")).text()
    assert str(tmp_path) not in text
    assert await (await client.get("/model")).json() == "toy"


async def test_prompts_and_model(serve: Serve) -> None:
    client = await serve()
    assert await (await client.get("/prompts")).json() == [*STOCK, "<FAKE>"]
    assert await (await client.get("/model")).json() == "toy"
    assert (await client.head("/prompts")).status == 200


async def test_every_prompt_with_its_explanation(serve: Serve) -> None:
    client = await serve()
    rows = await (await client.get("/prompts?all=1")).json()
    assert {row["token"] for row in rows} == {*(task.token for task in TASKS), "<FAKE>"}
    assert rows[0] == {name: getattr(TASKS[0], name) for name in rows[0]}
    assert set(rows[0]) == {"token", "sentence", "input", "answer", "explanation"}
    text = await (await client.get("/prompts?all=1", headers={"Accept": "text/plain"})).text()
    assert text.split("\n")[:-1] == [row["token"] for row in rows]
    assert (await client.get("/prompts?all=perhaps")).status == 400


async def test_raw_and_parsed_answers(serve: Serve) -> None:
    """The worker without a model answers with what it was sent: the token, then the text."""
    client = await serve()
    status, plain = await ask(client, prompt="MIXED_CAPTION")
    assert (status, set(plain)) == (200, {"result"})
    _, raw = await ask(client, prompt="MIXED_CAPTION", raw=True)
    assert (raw["result"], raw["raw"].strip()) == (plain["result"], plain["result"])
    _, parsed = await ask(client, prompt="MIXED_CAPTION", parse=True)
    assert parsed["result"] == parse_fields("<MIXED_CAPTION>", raw["raw"])
    assert set(parsed["result"]) == {"caption", "tags"}
    assert (await ask(client, prompt="CAPTION", parse="1"))[1] == (await ask(client, prompt="CAPTION"))[1]
    assert (await ask(client, prompt="CAPTION", parse="maybe"))[0] == 400


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
    assert 25 <= int(ready.headers["Retry-After"]) <= 30
    assert (await client.get("/health")).status == 200


async def test_after_a_failed_load_it_is_ready_again_in_time(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who asks /ready before it sends anything would never send anything again."""
    monkeypatch.setattr("vision_server.worker.setbacks._FIRST_UNREADY_S", 0.2)
    client = await serve("--load", "fail", "--once", str(tmp_path / "once"))
    assert (await ask(client))[0] == 503
    assert (await (await client.get("/status")).json())["failure"]
    while (await client.get("/ready")).status != 200:
        pass
    now = await (await client.get("/status")).json()
    assert (now["state"], now["unready_s"], now["loads"]) == ("failed", {}, 0)
    assert (await ask(client))[0] == 200
    assert (await (await client.get("/status")).json())["failure"] is None


async def test_draining_is_said(serve: Serve) -> None:
    client = await serve()
    await client.server.app[QUEUE].drain()  # type: ignore[attr-defined]
    for path in ("/ready", "/health"):
        response = await client.get(path)
        assert response.status == 503
        assert "shutting down" in (await response.json())["error"]
    assert (await ask(client))[0] == 503
