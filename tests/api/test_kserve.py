"""KServe v2's calls, asked by Triton's real client, sync and async; behind the queue a worker without a model."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio

from tests.triton import IMAGE, TASK, TEXT, answers, batch, tensor
from vision_server import __version__

from .asking import BASE64, PNG, StatusBecomes, png, tensors
from .conftest import Client, Serve

T = TypeVar("T")
ROUTE = "/v2/models/florence2/infer"
OTHER = png((32, 32))
JSON_LENGTH = "Inference-Header-Content-Length"


def said(picture: bytes, prompt: str = "<FAKE>", text: str = "") -> dict[str, str]:
    """What the worker answers."""
    return {prompt: f"{prompt}|{text}|{len(picture)}"}


async def ask(client: Client, work: Callable[[Any], T]) -> T:
    """Let the synchronous client do it, in a thread of its own."""

    def run() -> T:
        with triton.InferenceServerClient(f"127.0.0.1:{client.port}", network_timeout=120.0) as server:
            return work(server)

    return await asyncio.to_thread(run)


@contextmanager
def refused(status: int, *words: str) -> Iterator[None]:
    with pytest.raises(triton.InferenceServerException) as caught:
        yield
    assert caught.value.status() == str(status)
    assert all(word in str(caught.value) for word in words), caught.value


async def test_who_looks_wakes_nobody(serve: Serve) -> None:
    client = await serve()

    def look(server: Any) -> None:
        assert server.is_server_live()
        assert server.is_server_ready()
        for model, version in (("florence2", ""), ("florence2", "1"), ("toy", ""), ("Florence2:latest", "1")):
            assert server.is_model_ready(model, version)
        assert not server.is_model_ready("nope")
        assert not server.is_model_ready("toy", "2")
        about = server.get_server_metadata()
        assert (about["name"], about["version"]) == ("vision-server", __version__)
        assert {"binary_tensor_data", "model_repository", "statistics"} <= {*about["extensions"]}
        for metadata in (server.get_model_metadata("florence2"), server.get_model_metadata("florence2", "1")):
            assert (metadata["name"], metadata["versions"]) == ("florence2", ["1"])
            assert [one["name"] for one in metadata["inputs"]] == [IMAGE, TASK, TEXT]
            tensors = [*metadata["inputs"], *metadata["outputs"]]
            assert {(one["datatype"], *one["shape"]) for one in tensors} == {("BYTES", -1, 1)}
            assert metadata["outputs"][0]["name"] == "PARSED_JSON"
        config = server.get_model_config("toy")
        assert (config["name"], [one["optional"] for one in config["input"]]) == ("toy", [False, False, True])
        listed = server.get_model_repository_index()
        assert [(one["name"], one["version"], one["state"]) for one in listed] == [
            ("florence2", "1", "READY"),
            ("toy", "1", "READY"),
        ]
        [stats] = server.get_inference_statistics("florence2")["model_stats"]
        assert (stats["inference_count"], stats["last_inference"]) == (0, 0)

    await ask(client, look)
    status = await (await client.get("/status")).json()
    assert (status["state"], status["loads"], status["idle_unload_in_s"]) == ("unloaded", 0, None)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
async def test_a_batch_in_every_form(serve: Serve, binary: bool, coding: str | None) -> None:
    client = await serve()
    compressed = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
    outputs = [triton.InferRequestedOutput("PARSED_JSON", binary_data=binary)]

    def infer(server: Any) -> Any:
        inputs = batch([PNG, OTHER, PNG], binary=binary)
        return server.infer("florence2", inputs, request_id="seven", outputs=outputs, **compressed)

    result = await ask(client, infer)
    assert answers(result) == [said(PNG), said(OTHER), said(PNG)]
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("seven", "florence2", "1")
    [output] = response["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("PARSED_JSON", "BYTES", [3, 1])
    assert ("data" in output, "parameters" in output) == (not binary, binary)


async def test_the_client_for_asyncio(serve: Serve) -> None:
    client = await serve(api_key="right")
    key = {"Authorization": "Bearer right"}
    async with triton_aio.InferenceServerClient(f"127.0.0.1:{client.port}") as server:
        assert await server.is_server_live()
        assert await server.is_server_ready()
        assert not await server.is_model_ready("florence2")
        assert await server.is_model_ready("florence2", headers=key)
        assert (await server.get_server_metadata(headers=key))["name"] == "vision-server"
        results = await asyncio.gather(
            server.infer("florence2", batch([PNG, OTHER]), headers=dict(key)),
            server.infer("toy", batch([OTHER], binary=False), headers=dict(key), response_compression_algorithm="gzip"),
            server.infer("toy", batch([PNG]), headers=dict(key), request_compression_algorithm="deflate"),
        )
        assert [answers(result) for result in results] == [[said(PNG), said(OTHER)], [said(OTHER)], [said(PNG)]]
        with refused(401, "key"):
            await server.infer("florence2", batch([PNG]))
        await server.unload_model("florence2", headers=dict(key))


async def test_several_at_once_from_one_client(serve: Serve) -> None:
    client = await serve()

    def infer(server: Any) -> list[Any]:
        asked = [server.async_infer("florence2", batch([picture])) for picture in (PNG, OTHER, PNG)]
        return [one.get_result(timeout=60) for one in asked]

    assert [answers(result) for result in await ask(client, infer)] == [[said(PNG)], [said(OTHER)], [said(PNG)]]


async def test_the_answer_is_binary_only_where_that_is_asked(serve: Serve) -> None:
    client = await serve()
    asked = tensors(BASE64)
    for more, binary in (
        ({}, False),
        ({"parameters": {"binary_data_output": False}}, False),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"outputs": [{"name": "PARSED_JSON"}], "parameters": {"binary_data_output": True}}, True),
        ({"outputs": [{"name": "PARSED_JSON", "parameters": {"binary_data": True}}]}, True),
        (
            {
                "outputs": [{"name": "PARSED_JSON", "parameters": {"binary_data": False}}],
                "parameters": {"binary_data_output": True},
            },
            False,
        ),
    ):
        response = await client.post(ROUTE, json={**asked, **more}, headers={"Accept-Encoding": "identity"})
        assert response.content_type == ("application/octet-stream" if binary else "application/json")
        body, text = await response.read(), json.dumps(said(PNG)).encode()
        if binary:
            size = int(response.headers[JSON_LENGTH])
            assert body[size:] == len(text).to_bytes(4, "little") + text
            assert json.loads(body[:size])["outputs"][0]["parameters"] == {"binary_data_size": 4 + len(text)}
        else:
            assert JSON_LENGTH not in response.headers
            assert json.loads(body)["outputs"][0]["data"] == [text.decode()]
        assert "id" not in json.loads(body[: int(response.headers.get(JSON_LENGTH, len(body)))])
        assert "X-Request-Id" in response.headers
        assert "Server-Timing" in response.headers


@pytest.mark.parametrize(
    ("accept", "coding"),
    [("gzip", "gzip"), ("deflate", "deflate"), ("gzip;q=0, deflate;q=0.1", "deflate"), ("br, gzip;q=0", None)],
)
async def test_the_answer_is_compressed_as_it_is_asked(serve: Serve, accept: str, coding: str | None) -> None:
    client = await serve()
    response = await client.post(ROUTE, json=tensors(BASE64), headers={"Accept-Encoding": accept})
    assert response.headers.get("Content-Encoding") == coding
    assert json.loads((await response.json())["outputs"][0]["data"][0]) == said(PNG)


@pytest.mark.parametrize(
    "picture",
    [PNG, base64.b64encode(PNG), base64.encodebytes(PNG), b"data:image/png;base64," + base64.b64encode(PNG)],
    ids=["file", "base64", "lines of base64", "data URI"],
)
async def test_every_spelling_of_a_picture(serve: Serve, picture: bytes) -> None:
    client = await serve()
    assert answers(await ask(client, lambda server: server.infer("florence2", batch([picture])))) == [said(PNG)]


async def test_rows_of_one_and_fields_that_nobody_knows(serve: Serve) -> None:
    client = await serve()
    asked = tensors(BASE64)
    asked["inputs"][0]["data"] = [[BASE64]]
    asked["inputs"][1]["foo"] = 1
    asked["parameters"] = {"priority": 2, "timeout": 1, "sequence_id": 7}
    response = await client.post(ROUTE, json=asked)
    assert json.loads((await response.json())["outputs"][0]["data"][0]) == said(PNG)


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        ("<FAKE>", "", "<FAKE>||"),
        ("fake", "", "<FAKE>||"),
        ("", "", "<CAPTION>||"),
        ("<VQA> what colour?", "", "<VQA>|what colour?|"),
        ("<VQA>", "what colour?", "<VQA>|what colour?|"),
        ("vqa", "größer?", "<VQA>|größer?|"),
        ("<VQA> is lost", "wins", "<VQA>|wins|"),
        ("describe it", "", "<DETAILED_CAPTION>||"),
        ("<REGION_TO_CATEGORY>", "<loc_1><loc_2><loc_3><loc_4>", "<REGION_TO_CATEGORY>||"),
        ("REGION_TO_CATEGORY", "1,2,30,40", "<REGION_TO_CATEGORY>||"),
    ],
)
async def test_the_prompt_and_its_input(serve: Serve, prompt: str, text: str, expected: str) -> None:
    client = await serve(phrases=(("describe", "<DETAILED_CAPTION>"),))
    asked = batch([PNG], prompt.encode(), text.encode())
    [answer] = answers(await ask(client, lambda server: server.infer("florence2", asked)))
    assert answer == {expected.partition("|")[0]: f"{expected}{len(PNG)}"}


async def test_each_row_has_a_prompt_of_its_own(serve: Serve) -> None:
    client = await serve()
    asked = [
        tensor(IMAGE, PNG, base64.b64encode(OTHER), PNG),
        tensor(TEXT, b"", b"a car", b""),
        tensor(TASK, b"FAKE", b"<VQA>", b"<DETAILED_CAPTION>"),
    ]
    assert answers(await ask(client, lambda server: server.infer("toy", asked, "1"))) == [
        said(PNG),
        said(OTHER, "<VQA>", "a car"),
        said(PNG, "<DETAILED_CAPTION>"),
    ]


async def test_options_are_parameters(serve: Serve) -> None:
    client = await serve()
    how = {"num_beams": 1, "max_new_tokens": 9, "keep_alive": "5m"}
    await ask(client, lambda server: server.infer("florence2", batch([PNG]), parameters=how))
    for wrong in ({"num_beams": 9}, {"keep_alive": "soon"}):
        with refused(400, *wrong):
            await ask(client, lambda server, wrong=wrong: server.infer("florence2", batch([PNG]), parameters=wrong))  # type: ignore[misc]


async def test_names_with_a_slash_and_a_default_that_comes_second(serve: Serve, two: Any) -> None:
    client = await serve(models=two, model="owner/Toy", model_aliases=(("blip", "fine-tune"),))

    def look(server: Any) -> None:
        listed = [one["name"] for one in server.get_model_repository_index()]
        assert listed == ["florence2", "owner/Toy", "fine-tune"]
        for name, answers_as in (("owner/Toy", "owner/Toy"), ("blip", "fine-tune"), ("FLORENCE2", "florence2")):
            assert server.is_model_ready(name, "1")
            assert server.get_model_metadata(name)["name"] == answers_as
            result = server.infer(name, batch([PNG], b"<VQA>", b"model"))
            model = "owner/Toy" if answers_as == "florence2" else answers_as
            assert answers(result) == [said(PNG, "<VQA>", model)]
            assert result.get_response()["model_name"] == answers_as
        counts = {one["name"]: one["inference_count"] for one in server.get_inference_statistics()["model_stats"]}
        assert counts == {"florence2": 2, "owner/Toy": 2, "fine-tune": 1}

    await ask(client, look)


async def test_statistics_count_every_dialects_requests(serve: Serve) -> None:
    client = await serve()

    def infer(server: Any) -> Any:
        server.infer("florence2", batch([PNG, OTHER, PNG]))
        server.infer("toy", batch([PNG]))
        for wrong in (batch([PNG], b"<NONSENSE>"), batch([b"no picture"]), batch([PNG], b"<VQA>", b"bad")):
            with pytest.raises(triton.InferenceServerException):
                server.infer("florence2", wrong)
        return server.get_inference_statistics("toy", "1")

    await client.post("/process_image", json={"image": BASE64, "prompt": "FAKE"})
    await client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Only talk"}]})
    [stats] = (await ask(client, infer))["model_stats"]
    assert (stats["name"], stats["version"]) == ("toy", "1")
    assert (stats["inference_count"], stats["execution_count"]) == (5, 5)
    assert stats["last_inference"] > 1_700_000_000_000
    figures = stats["inference_stats"]
    assert (figures["success"]["count"], figures["fail"]["count"]) == (3, 3)
    assert {figures[name]["count"] for name in ("queue", "compute_input", "compute_infer", "compute_output")} == {3}
    assert figures["cache_hit"] == figures["cache_miss"] == {"count": 0, "ns": 0}  # answers are not kept
    assert figures["compute_infer"]["ns"] > 0 < figures["compute_input"]["ns"]
    assert figures["queue"]["ns"] <= figures["success"]["ns"]  # what this worker says it took, it has not taken
    assert figures["fail"]["ns"] > 0


async def test_load_and_unload(serve: Serve, status_becomes: StatusBecomes) -> None:
    client = await serve()
    await ask(client, lambda server: server.load_model("florence2"))
    assert (await status_becomes(client, state="ready"))["loads"] == 1
    await ask(client, lambda server: server.unload_model("toy"))
    assert (await status_becomes(client, state="unloaded"))["unloads_by_cause"]["unload"] == 1
    assert await ask(client, lambda server: server.is_model_ready("florence2"))
    await ask(client, lambda server: server.unload_model("florence2"))
    assert (await client.post("/v2/repository/models/toy/load")).status == 200
    await status_becomes(client, state="ready")


async def test_unloading_one_model_leaves_the_other_alone(
    serve: Serve, two: Any, status_becomes: StatusBecomes
) -> None:
    client = await serve(models=two, model="owner/Toy")
    await ask(client, lambda server: server.load_model("fine-tune"))
    await ask(client, lambda server: server.unload_model("owner/Toy"))
    await status_becomes(client, state="ready", model="fine-tune")
    await ask(client, lambda server: server.unload_model("fine-tune"))
    await status_becomes(client, state="unloaded")
