"""GET /metrics: real requests on a worker without a model, the answer read by Prometheus' own parser."""

from __future__ import annotations

import json
import socket
import time

import psutil
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from vision_server import __version__
from vision_server.api.keys import METRICS

from .asking import BASE64, PNG, ask
from .conftest import Client, Serve

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scrape:
    """One answer of /metrics. `scrape("name", label="value")` is a sample's value, None where there is none."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.types = {family.name: family.type for family in families}
        self.texts = {family.name: family.documentation for family in families}
        self.samples: Samples = {}
        for sample in [sample for family in families for sample in family.samples]:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in self.samples, f"{key} is there twice"
            self.samples[key] = sample.value

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.samples.get((name, frozenset(labels.items())))

    def by(self, name: str, label: str) -> dict[str, float]:
        return {dict(labels)[label]: value for (at, labels), value in self.samples.items() if at == name}


async def scraped(client: Client) -> Scrape:
    response = await client.get("/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scrape(await response.text())


async def until(client: Client, value: float, name: str, **labels: str) -> Scrape:
    """Scrape until a sample holds a value; the test's own timeout ends a vain wait."""
    while (scrape := await scraped(client))(name, **labels) != value:
        pass
    return scrape


async def test_before_anything_was_asked(serve: Serve) -> None:
    scrape = await scraped(await serve(max_queue=17))
    assert scrape("vision_build_info", version=__version__) == 1
    assert scrape.by("vision_state", "state") == {
        **dict.fromkeys(("loading", "ready", "unloading", "failed"), 0.0),
        "unloaded": 1.0,
    }
    assert scrape.by("vision_model_loaded", "model") == {"toy": 0}
    assert scrape.by("vision_model_load_failed", "model") == {"toy": 0}
    assert (scrape("vision_queue_depth"), scrape("vision_queue_capacity")) == (0, 17)
    assert (scrape("vision_requests_in_flight"), scrape("vision_load_seconds_count")) == (0, 0)
    assert scrape.by("vision_worker_restarts_total", "cause") == scrape.by("vision_unloads_total", "cause") == {}
    for name in ("vision_worker_resident_memory_bytes", "vision_worker_device_memory_bytes"):
        assert scrape(name) is None
    assert scrape("vision_idle_unload_seconds") is None


async def test_names_types_and_help_are_as_the_field_has_them(serve: Serve) -> None:
    client = await serve()
    assert (await ask(client))[0] == 200
    scrape = await scraped(client)
    assert all(scrape.texts.values())
    assert not [name for name, kind in scrape.types.items() if kind == "unknown"]
    assert not [name for name in scrape.types if not name.startswith(("vision_", "process_"))]
    assert not [name for name in scrape.types if name.endswith("_created")]
    assert not [name for name, _ in scrape.samples if scrape.types.get(name) == "counter"], "each ends in _total"
    assert {name for name, kind in scrape.types.items() if kind == "histogram"} == {
        "vision_request_duration_seconds",
        "vision_queue_wait_seconds",
        "vision_decode_seconds",
        "vision_encode_seconds",
        "vision_generate_seconds",
    }
    assert not [name for name in scrape.types if any(unit in name for unit in ("_ms", "_mb", "_millis", "_kb"))]


async def test_answered_requests_with_their_stages_and_tokens(serve: Serve) -> None:
    client = await serve()
    for _ in range(3):
        assert (await ask(client))[0] == 200
    scrape = await scraped(client)
    assert scrape("vision_requests_total", route="/process_image", code="200") == 3
    assert scrape("vision_request_duration_seconds_count", route="/process_image") == 3
    for stage, seconds in (("decode", 0.001), ("encode", 0.002), ("generate", 0.003)):
        assert scrape(f"vision_{stage}_seconds_count") == 3
        assert scrape(f"vision_{stage}_seconds_sum") == pytest.approx(3 * seconds)
    assert scrape("vision_queue_wait_seconds_count") == 3
    assert (scrape("vision_prompt_tokens_total"), scrape("vision_generation_tokens_total")) == (21, 9)
    assert scrape("vision_load_seconds_count") == 1
    assert 0 < (scrape("vision_load_seconds_sum") or 0) < 60
    assert scrape("vision_state", state="ready") == scrape("vision_model_loaded", model="toy") == 1
    assert (scrape("vision_worker_resident_memory_bytes") or 0) > 1 << 20
    assert 0 < (scrape("vision_idle_unload_seconds") or 0) <= 300


async def test_the_daemons_own_process(serve: Serve) -> None:
    scrape, process = await scraped(await serve()), psutil.Process()
    assert (scrape("process_resident_memory_bytes") or 0) == pytest.approx(process.memory_info().rss, rel=0.2)
    assert scrape("process_start_time_seconds") == pytest.approx(process.create_time(), rel=0, abs=1)
    assert 0 < (scrape("process_cpu_seconds_total") or 0) <= sum(process.cpu_times()[:2])


async def test_failures_by_route_and_reason(serve: Serve) -> None:
    client = await serve()
    await ask(client, prompt="NOPE")
    await ask(client, image="?")
    await ask(client, prompt="FAKE", text_input="bad")
    await client.get("/process_image")
    scrape = await scraped(client)
    assert scrape.by("vision_requests_total", "code") == {"400": 2, "415": 1, "405": 1}
    reasons = {"unknown_prompt": 1, "bad_request": 1, "bad_image": 1, "method_not_allowed": 1}
    assert scrape.by("vision_request_failures_total", "reason") == reasons
    assert scrape("vision_decode_seconds_count") == 0


async def test_what_strangers_send_makes_no_new_series(serve: Serve) -> None:
    client = await serve()
    await client.get("/nowhere")
    before = set((await scraped(client)).samples) | set((await scraped(client)).samples)
    for n in range(30):
        await client.get(f"/nowhere/{n}", headers={"X-Request-Id": f"id-{n}", "User-Agent": f"agent {n}"})
        await client.request("DELETE", f"/status/{n}?x={n}")
    scrape = await scraped(client)
    assert set(scrape.samples) == before
    assert scrape("vision_requests_total", route="unknown", code="404") == 61


async def test_a_client_that_leaves_is_499(serve: Serve) -> None:
    client = await serve("--slots", "1")
    body = json.dumps({"image": BASE64, "prompt": "FAKE", "text_input": "hold"}).encode()
    head = b"POST /process_image HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    sockets = []
    for _ in range(2):
        sockets.append(socket.create_connection(("127.0.0.1", client.port or 0)))
        sockets[-1].sendall(head + body)
    await until(client, 1, "vision_queue_depth")
    scrape = await until(client, 1, "vision_requests_in_flight")
    assert scrape("vision_requests_total", route="/process_image", code="499") is None
    for connection in sockets:
        connection.close()
    scrape = await until(client, 2, "vision_requests_total", route="/process_image", code="499")
    assert scrape("vision_request_failures_total", route="/process_image", reason="cancelled") == 2
    assert scrape("vision_request_duration_seconds_count", route="/process_image") == 2


async def test_restarts_by_cause(serve: Serve) -> None:
    client = await serve()
    loaded = await (await client.post("/load")).json()
    psutil.Process(loaded["worker_pid"]).kill()
    await until(client, 1, "vision_worker_restarts_total", cause="SIGKILL")
    assert (await ask(client, prompt="FAKE", text_input="crash"))[0] == 500
    assert (await ask(client, prompt="FAKE", text_input="garbage"))[0] == 500
    scrape = await scraped(client)
    assert scrape.by("vision_worker_restarts_total", "cause") == {"SIGKILL": 1, "SIGABRT": 2, "garbage": 2}
    assert scrape("vision_request_failures_total", route="/process_image", reason="worker_crash") == 2
    status = await (await client.get("/status")).json()
    assert status["restarts_by_cause"] == {"SIGKILL": 1, "SIGABRT": 2, "garbage": 2}


async def test_unloads_by_cause(serve: Serve) -> None:
    client = await serve(idle_timeout_s=0)
    assert (await ask(client))[0] == 200
    await until(client, 1, "vision_unloads_total", cause="idle")
    await client.post("/load?keep_alive=-1")
    await client.post("/unload")
    scrape = await scraped(client)
    assert scrape.by("vision_unloads_total", "cause") == {"idle": 1, "unload": 1}
    assert scrape("vision_load_seconds_count") == 2


async def test_a_failed_load(serve: Serve) -> None:
    client = await serve("--load", "fail")
    assert (await ask(client))[0] == 503
    scrape = await scraped(client)
    assert scrape("vision_model_load_failed", model="toy") == 1
    assert scrape("vision_request_failures_total", route="/process_image", reason="bad_checkpoint") == 1
    assert scrape("vision_model_loaded", model="toy") == 0


async def test_scraping_neither_loads_nor_keeps_awake(serve: Serve) -> None:
    client = await serve(idle_timeout_s=0.3)
    for _ in range(20):
        assert (await scraped(client))("vision_load_seconds_count") == 0
    assert (await (await client.get("/status")).json())["worker_pid"] is None
    assert (await ask(client))[0] == 200
    await until(client, 1, "vision_unloads_total", cause="idle")  # scraping all the while
    assert (await scraped(client))("vision_load_seconds_count") == 1


async def test_the_key_is_asked_for_and_the_host_looked_at(serve: Serve) -> None:
    client = await serve(api_key="s3cret")
    assert (await client.get("/metrics")).status == 401
    assert (await client.get("/metrics", headers={"X-API-Key": "other"})).status == 401
    assert (await client.get("/metrics", headers={"Authorization": "Bearer s3cret"})).status == 200
    refused = await client.get("/metrics", headers={"X-API-Key": "s3cret", "Host": "evil.example"})
    assert refused.status == 403


async def test_two_applications_count_apart(serve: Serve) -> None:
    one, other = await serve(), await serve()
    assert (await ask(one))[0] == 200
    assert (await scraped(one))("vision_requests_total", route="/process_image", code="200") == 1
    assert (await scraped(other))("vision_requests_total", route="/process_image", code="200") is None


async def test_a_scrape_costs_a_few_milliseconds(serve: Serve) -> None:
    client = await serve()
    for path in ("/status", "/health", "/ready", "/prompts", "/model", "/nowhere", "/metrics"):
        await client.get(path)
    await client.post("/process_image?prompt=FAKE", data=PNG)
    app = client.server.app  # type: ignore[attr-defined]
    assert isinstance(app, web.Application)
    seconds = []
    for _ in range(20):
        began_s = time.perf_counter()
        app[METRICS].text()
        seconds.append(time.perf_counter() - began_s)
    assert min(seconds) < 0.02
