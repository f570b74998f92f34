"""Several checkpoints behind one server: picked by name in every call, and never two workers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil

from vision_server.setting_models import ModelEntry
from vision_server.tasks import STOCK

from .asking import PNG, StatusBecomes, ask
from .conftest import Serve

Two = tuple[ModelEntry, ...]


async def test_a_request_picks_one_and_the_default_is_used_without(serve: Serve, two: Two) -> None:
    client = await serve(models=two, model="owner/toy")
    for name, means in (("fine-tune", "fine-tune"), ("FINE-TUNE:latest", "fine-tune"), ("", "owner/Toy")):
        status, body = await ask(client, prompt="FAKE", text_input="model", model=name)
        if means == "fine-tune":
            assert (status, body["code"]) == (400, "unknown_prompt")
            status, body = await ask(client, prompt="tags_of_mine", text_input="model", model=name)
            assert (status, body["result"]) == (200, f"<TAGS_OF_MINE>|fine-tune|{len(PNG)}")
        else:
            assert (status, body["result"]) == (200, f"<FAKE>|{means}|{len(PNG)}")
        assert (await (await client.get("/status")).json())["model"] == means
    response = await client.post("/process_image?model=Fine-Tune&prompt=TAGS_OF_MINE&text_input=model", data=PNG)
    assert (await response.json())["result"] == f"<TAGS_OF_MINE>|fine-tune|{len(PNG)}"


async def test_what_is_not_served_is_404_everywhere(serve: Serve, two: Two, folder: Path) -> None:
    client = await serve(models=two, model="owner/toy")
    for name in ("demo", "promptgen-large", "microsoft/Florence-2-base", str(folder), folder.name):
        status, body = await ask(client, model=name)
        assert (status, body["code"]) == (404, "model_not_found")
        assert body["error"].endswith("name one of these: owner/Toy, fine-tune.")
    for method, path in (("GET", "/prompts?model=demo"), ("POST", "/load?model=demo")):
        response = await client.request(method, path)
        assert (response.status, (await response.json())["code"]) == (404, "model_not_found")
    assert (await (await client.get("/status")).json())["loads"] == 0


async def test_each_has_its_prompts(serve: Serve, two: Two) -> None:
    client = await serve(models=two, model="owner/toy")
    assert await (await client.get("/prompts")).json() == [*STOCK, "<FAKE>"]
    assert await (await client.get("/prompts?model=fine-tune:latest")).json() == ["<TAGS_OF_MINE>"]
    rows = await (await client.get("/prompts?all=1&model=fine-tune")).json()
    assert rows[0]["token"] == "<TAGS_OF_MINE>"
    assert await (await client.get("/model")).json() == "owner/Toy"


async def test_load_and_status_tell_the_models_apart(serve: Serve, two: Two) -> None:
    client = await serve("--load", "fail", "--only", "fine-tune", models=two, model="owner/toy")
    first = await (await client.post("/load")).json()
    assert (first["state"], first["model"], first["models"]) == ("ready", "owner/Toy", ["owner/Toy", "fine-tune"])
    failed = await client.post("/load?model=fine-tune")
    assert (failed.status, (await failed.json())["code"]) == (503, "bad_checkpoint")
    again = await (await client.post("/load?model=OWNER/toy")).json()
    assert (again["state"], again["failure"]) == ("ready", None)
    assert again["failures"] == {"fine-tune": "The fake checkpoint cannot be loaded."}
    assert not psutil.pid_exists(first["worker_pid"])
    assert (await client.get("/ready")).status == 200


async def test_the_idle_time_is_that_of_the_loaded_one(serve: Serve, two: Two) -> None:
    client = await serve(models=two, model="owner/toy")
    for query, at_most_s in (("", 300), ("?model=fine-tune", 7), ("?model=fine-tune&keep_alive=90", 90)):
        status = await (await client.post(f"/load{query}")).json()
        assert at_most_s - 5 < status["idle_unload_in_s"] <= at_most_s


async def test_a_download_nobody_may_wait_for_is_503_with_the_progress(
    serve: Serve, two: Two, status_becomes: StatusBecomes, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    worker = ("--load", "download", "--gate", str(gate), "--only", "fine-tune")
    client = await serve(*worker, models=two, model="owner/toy", wait_for_download=False)
    for _ in range(2):
        response = await client.post("/process_image?model=fine-tune&prompt=TAGS_OF_MINE", data=PNG)
        assert response.status == 503
        assert 1 <= int(response.headers["Retry-After"]) <= 120
        body = await response.json()
        assert body["code"] == "unavailable"
        assert "fine-tune is being downloaded: " in body["error"]
        assert " of 1,074 MB are here" in body["error"]
    status = await status_becomes(client, load_phase="download")
    assert (status["state"], status["queue_depth"], status["load_bytes_total"]) == ("loading", 0, 1 << 30)
    load = asyncio.create_task(client.post("/load?model=fine-tune"))
    gate.touch()
    assert (await (await load).json())["model"] == "fine-tune"
    assert (await ask(client, model="fine-tune", prompt="TAGS_OF_MINE"))[0] == 200
