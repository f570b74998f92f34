"""Ollama's answers, asked by the real `ollama` package, sync and async; behind the queue a worker without a model."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ollama
import pytest

from vision_server import __version__
from vision_server.api import streams
from vision_server.api.chats import MAX_IMAGES, NO_IMAGE
from vision_server.api.keys import QUEUE
from vision_server.jobs import Outcome, Place, Request

from .asking import BASE64, PNG, StatusBecomes, png
from .conftest import Client, Serve
from .ollama_asking import CHAT, FAKE, GENERATE, address, asking, chatting, sdk

OTHER = png((32, 32))


async def said(client: Client, prompt: str = "<FAKE>", **more: Any) -> str:
    async with sdk(client) as ai:
        return str((await ai.generate(**asking(prompt, **more))).response)


async def test_an_answer_and_its_parts(serve: Serve) -> None:
    client = await serve()
    async with sdk(client) as ai:
        answer = await ai.generate("TOY:latest", "<FAKE>", images=[PNG])
        chat = await ai.chat(**chatting())
    assert (answer.model, answer.response, answer.done, answer.done_reason) == ("TOY:latest", FAKE, True, "stop")
    assert (chat.model, chat.message.role, chat.message.content) == ("toy", "assistant", FAKE)
    for one in (answer, chat):
        assert (one.prompt_eval_count, one.eval_count) == (7, 3)
        assert (one.prompt_eval_duration, one.eval_duration) == (3_000_000, 3_000_000)  # what the worker says, in ns
        assert one.total_duration is not None
        assert one.load_duration is not None
        assert 0 < one.total_duration < 60_000_000_000
        assert one.created_at is not None
        age = datetime.now(timezone.utc) - datetime.fromisoformat(one.created_at.replace("Z", "+00:00"))
        assert abs(age.total_seconds()) < 60
    assert answer.load_duration is not None
    assert answer.load_duration > chat.load_duration == 0  # the first one has waited for the load


async def test_the_synchronous_package_whole_and_streamed(serve: Serve) -> None:
    client = await serve()

    def ask() -> tuple[Any, ...]:
        with ollama.Client(host=address(client), timeout=60) as ai:
            return (
                ai.generate(**asking()),
                ai.chat(**chatting()),
                list(ai.generate(stream=True, **asking())),
                list(ai.chat(stream=True, **chatting())),
            )

    answer, chat, pieces, chat_pieces = await asyncio.to_thread(ask)
    assert answer.response == chat.message.content == FAKE
    assert "".join(piece.response for piece in pieces) == FAKE
    assert "".join(piece.message.content for piece in chat_pieces) == FAKE
    for parts in (pieces, chat_pieces):
        assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
        assert (parts[-1].done_reason, parts[-1].eval_count) == ("stop", 3)


@pytest.mark.parametrize("form", [{}, {"stream": True}, {"stream": None}, {"stream": False}])
async def test_it_streams_unless_told_otherwise(serve: Serve, form: dict[str, Any]) -> None:
    client = await serve()
    response = await client.post(GENERATE, json=asking(**form))
    lines = [json.loads(line) for line in (await response.text()).splitlines()]
    assert "".join(line["response"] for line in lines) == FAKE
    streamed = form != {"stream": False}
    assert (len(lines) > 1) == streamed
    kind = "application/x-ndjson" if streamed else "application/json; charset=utf-8"
    assert response.headers["Content-Type"] == kind
    assert response.headers["X-Request-Id"]
    assert streamed or response.headers["Server-Timing"].startswith("queue;dur=")


@pytest.mark.parametrize("route", [GENERATE, CHAT])
async def test_pieces_without_text_come_while_it_waits(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    monkeypatch.setattr(streams, "PING_S", 0.01)
    client = await serve("--load", "slow", "--gate", str(tmp_path / "gate"))
    async with sdk(client) as ai:
        stream: Any = await (
            ai.chat(stream=True, **chatting()) if route == CHAT else ai.generate(stream=True, **asking())
        )
        first = await anext(stream)
        assert (first.done, first.message.content if route == CHAT else first.response) == (False, "")
        assert (await (await client.get("/status")).json())["state"] == "loading"
        (tmp_path / "gate").touch()
        rest = [part async for part in stream]
    assert "".join(part.message.content if route == CHAT else part.response for part in rest) == FAKE


async def test_several_pictures_have_an_answer_each(serve: Serve) -> None:
    client = await serve()
    both = [PNG, OTHER]
    expected = f"{FAKE}\n\n<FAKE>||{len(OTHER)}"
    assert await said(client, images=both) == expected
    async with sdk(client) as ai:
        parts = [part.response async for part in await ai.generate("toy", "<FAKE>", images=both, stream=True)]
    assert "".join(part or "" for part in parts) == expected
    assert json.loads(await said(client, images=both, format="json")) == [
        {"result": FAKE},
        {"result": f"<FAKE>||{len(OTHER)}"},
    ]
    response = await client.post(GENERATE, json=asking(images=[BASE64] * (MAX_IMAGES + 1)))
    assert response.status == 400
    response = await client.post(GENERATE, json=asking(images=[BASE64, "AAAA"]))
    assert (response.status, (await response.json())["error"].startswith("Picture 2 of 2: ")) == (415, True)


async def test_only_the_last_message_of_the_user_is_looked_at(serve: Serve) -> None:
    """The history that Open WebUI and others send along."""
    client = await serve()
    history = [
        {"role": "system", "content": "You are helpful."},
        {"role": "user", "content": "<OD>", "images": [PNG]},
        {"role": "assistant", "content": '{"bboxes": [], "labels": []}'},
    ]
    async with sdk(client) as ai:
        last = {"role": "user", "content": "<FAKE>", "images": [OTHER]}
        assert (await ai.chat("toy", [*history, last])).message.content == f"<FAKE>||{len(OTHER)}"
        assert (await ai.chat("toy", [*history, {"role": "user", "content": "And?"}])).message.content == NO_IMAGE


@pytest.mark.parametrize("stream", [False, True])
async def test_mere_talk_is_answered_at_once_and_loads_nothing(serve: Serve, stream: bool) -> None:
    client = await serve()
    for route, body in ((GENERATE, asking("hello", images=[])), (CHAT, {"messages": [{"role": "user"}]})):
        text = await (await client.post(route, json={**body, "stream": stream})).text()
        last = json.loads(text.splitlines()[-1])
        assert NO_IMAGE in text
        assert (last["done_reason"], last["eval_count"]) == ("stop", 0)
    assert (await (await client.get("/status")).json())["loads"] == 0


async def test_the_text_says_the_prompt(serve: Serve) -> None:
    client = await serve(phrases=(("describe", "<DETAILED_CAPTION>"),), default_prompt="<MORE_DETAILED_CAPTION>")
    assert (await said(client, "")).startswith("<MORE_DETAILED_CAPTION>|")  # a picture alone is no preload
    assert (await said(client, "What is this?")).startswith("<MORE_DETAILED_CAPTION>|")
    assert (await said(client, "Please DESCRIBE this.")).startswith("<DETAILED_CAPTION>|")
    assert (await said(client, "<VQA> what colour?")).startswith("<VQA>|what colour?|")
    assert (await said(client, "what colour?", system="<VQA>")).startswith("<VQA>|what colour?|")
    assert (await said(client, "<FAKE>", system="<VQA>")) == FAKE
    async with sdk(client) as ai:
        messages = [{"role": "system", "content": "<VQA>"}, *chatting("how many?")["messages"]]
        assert str((await ai.chat("toy", messages)).message.content).startswith("<VQA>|how many?|")


async def test_structured_answers_and_formats(serve: Serve) -> None:
    client = await serve()
    located = "<CAPTION_TO_PHRASE_GROUNDING> located"
    assert json.loads(await said(client, located))["labels"] == ["a car"]
    assert json.loads(await said(client, located, format="json"))["labels"] == ["a car"]
    assert json.loads(await said(client, format="json")) == {"result": FAKE}
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "caption": {"type": "string"}}}
    assert json.loads(await said(client, format=schema)) == {"caption": FAKE}
    assert set(json.loads(await said(client, "<MIXED_CAPTION>", format={"type": "object"}))) == {"caption", "tags"}
    assert await said(client, format="") == FAKE
    response = await client.post(GENERATE, json=asking(format="yaml"))
    assert response.status == 400
    assert "format" in (await response.json())["error"]


async def test_options_are_ours_and_num_predict(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await serve()
    assert client.app is not None
    seen: list[Request] = []
    submit = client.app[QUEUE].submit

    async def seeing(job: Request, place: Place) -> Outcome:
        seen.append(job)
        return await submit(job, place)

    monkeypatch.setattr(client.app[QUEUE], "submit", seeing)
    for options in (
        {"num_predict": 12, "temperature": 0.5, "stop": ["."], "num_ctx": 8192},
        {"num_predict": -1},
        {"num_predict": 8192, "num_beams": 1},
        {"num_predict": 12, "max_new_tokens": 34},
        None,
    ):
        await said(client, options=options)
    assert [job.options.max_new_tokens for job in seen] == [12, None, None, 34, None]
    assert [job.options.num_beams for job in seen] == [3, 3, 1, 3, 3]
    for wrong in ({"num_predict": "many"}, {"num_predict": 1.5}, {"num_beams": 9}, [1]):
        response = await client.post(GENERATE, json=asking(options=wrong))
        assert response.status == 400
        assert "option" in (text := (await response.json())["error"]) or "num_" in text


async def test_models(serve: Serve, two: Any) -> None:
    client = await serve(models=two, model="owner/toy", model_aliases=(("llava", "fine-tune"),))
    async with sdk(client) as ai:
        listed = [model.model for model in (await ai.list()).models]
        assert listed == ["owner/Toy:latest", "fine-tune:latest"]
        for name, worker in [
            *zip(listed, ("owner/Toy", "fine-tune"), strict=True),
            ("owner/toy", "owner/Toy"),
            ("LLaVA:latest", "fine-tune"),
        ]:
            answer = await ai.generate(str(name), "<VQA> model", images=[PNG])
            assert (answer.model, answer.response) == (name, f"<VQA>|{worker}|{len(PNG)}")
            assert (await ai.show(str(name))).modelinfo
        with pytest.raises(ollama.ResponseError) as caught:
            await ai.show("llama3")
        assert (caught.value.status_code, caught.value.error) == (404, "model 'llama3' not found")
    unnamed = await (await client.post(GENERATE, json={"images": [BASE64], "stream": False})).json()
    assert unnamed["model"] == "owner/Toy:latest"
    assert (await client.post("/api/show", json={"name": "fine-tune"})).status == 200
    assert (await client.post("/api/show", json={})).status == 400
    assert (await client.post("/api/show", json={"model": "x" * (64 << 10)})).status == 413


async def test_what_the_lists_tell_and_that_looking_loads_nothing(serve: Serve) -> None:
    client = await serve(model="demo")
    async with sdk(client) as ai:
        [listed] = (await ai.list()).models
        shown = await ai.show("demo")
        assert (await ai.ps()).models == []
    assert listed.size is not None
    assert listed.size > 12_000_000
    assert listed.digest is not None
    assert len(bytes.fromhex(listed.digest)) == 32
    assert listed.modified_at == shown.modified_at
    assert listed.details == shown.details
    assert listed.details is not None
    assert (listed.details.family, listed.details.parameter_size) == ("florence2", "6.1M")
    assert (listed.details.format, listed.details.quantization_level) == ("safetensors", "F16")
    assert shown.capabilities == ["completion", "vision"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["florence2.context_length"] == 256
    assert "<OD>" in shown.modelinfo["florence2.prompts"]
    for path in ("/api/version", "/api/tags"):
        assert (await client.head(path)).status == 200
    assert await (await client.get("/api/version")).json() == {"version": __version__}
    status = await (await client.get("/status")).json()
    assert (status["state"], status["loads"]) == ("unloaded", 0)


async def test_ps_tells_what_is_loaded_and_until_when(serve: Serve, status_becomes: StatusBecomes) -> None:
    client = await serve("--slots", "1", idle_timeout_s=1000.0)
    held: list[asyncio.Future[Any]] = []
    async with sdk(client) as ai:
        for keep_alive, low_s, high_s in ((None, 900, 1000), ("2h", 7000, 7200), (-1, 9e9, 10e9)):
            await ai.generate(**asking(keep_alive=keep_alive))
            [one] = (await ai.ps()).models
            assert (one.name, one.size_vram) == ("toy:latest", 0)
            assert one.size is not None
            assert one.size > 0
            assert one.expires_at is not None
            assert low_s < (one.expires_at - datetime.now(timezone.utc)).total_seconds() < high_s
        held.append(asyncio.ensure_future(ai.generate(**asking("<VQA> hold"))))
        await status_becomes(client, in_flight=1)
        [one] = (await ai.ps()).models  # in use: as if it were left alone now
        assert one.expires_at is not None
        assert 900 < (one.expires_at - datetime.now(timezone.utc)).total_seconds() < 1000
        held[0].cancel()
