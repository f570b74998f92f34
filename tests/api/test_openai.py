"""OpenAI's calls, asked by the real `openai` package, sync and async; behind the queue a worker without a model."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
from yarl import URL

from vision_server.api import streams
from vision_server.api.chats import MAX_IMAGES, NO_IMAGE
from vision_server.api.keys import QUEUE
from vision_server.jobs import Outcome, Place, Request

from .asking import BASE64, PNG, StatusBecomes, asking, png
from .conftest import Serve
from .openai_asking import FAKE, ROUTE, chat, refused, said, sdk, sync_sdk

OTHER = png((32, 32))


async def test_an_answer_and_its_parts(serve: Serve) -> None:
    client = await serve()
    async with sdk(client) as ai:
        answer = await ai.chat.completions.create(**chat())
    assert (answer.object, answer.model, len(answer.choices)) == ("chat.completion", "toy", 1)
    assert answer.id.startswith("chatcmpl-")
    assert answer.created > 1_700_000_000
    assert (answer.choices[0].message.role, answer.choices[0].message.content) == ("assistant", FAKE)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 3, 10)


async def test_the_synchronous_package_whole_and_streamed(serve: Serve) -> None:
    client = await serve()

    def ask() -> tuple[Any, list[Any]]:
        with sync_sdk(client) as ai:
            return ai.chat.completions.create(**chat()), list(ai.chat.completions.create(stream=True, **chat()))

    whole, chunks = await asyncio.to_thread(ask)
    assert whole.choices[0].message.content == FAKE
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == FAKE


@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_stream_and_its_order(serve: Serve, include_usage: bool) -> None:
    client = await serve()
    async with sdk(client) as ai:
        options: Any = {"stream_options": {"include_usage": True}} if include_usage else {}
        stream = await ai.chat.completions.create(stream=True, **chat(images=[BASE64] * 2), **options)
        assert stream.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert "x-request-id" in stream.response.headers
        chunks = [chunk async for chunk in stream]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    usage = chunks.pop().usage if include_usage else None
    assert (usage is not None and usage.total_tokens == 20) == include_usage
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.role for chunk in chunks[1:]] == [None] * (len(chunks) - 1)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == f"{FAKE}\n\n{FAKE}"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert chunks[-1].choices[0].delta.content is None


async def test_a_stream_ends_with_its_mark(serve: Serve) -> None:
    client = await serve()
    text = await (await client.post(ROUTE, json=chat(stream=True))).text()
    assert text.endswith("data: [DONE]\n\n")
    assert all(line.startswith("data: ") for line in text.split("\n\n")[:-1])


async def test_comments_come_while_it_waits(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PING_S", 0.01)
    client = await serve("--load", "slow", "--gate", str(tmp_path / "gate"))
    async with sdk(client) as ai:
        stream = await ai.chat.completions.create(stream=True, **chat())  # its headers come with the first comment
        assert (await (await client.get("/status")).json())["state"] == "loading"
        (tmp_path / "gate").touch()
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == FAKE
    text = await (await client.post(ROUTE, json=chat(stream=True))).text()
    assert text.endswith("data: [DONE]\n\n")


async def test_several_pictures_have_an_answer_each(serve: Serve) -> None:
    client = await serve()
    other = base64.b64encode(OTHER).decode()
    assert len(OTHER) != len(PNG)
    assert await said(client, chat(images=[BASE64, other])) == f"{FAKE}\n\n<FAKE>||{len(OTHER)}"
    error = await refused(client, chat(images=[BASE64] * (MAX_IMAGES + 1)))
    assert (error.status_code, error.code) == (400, "bad_request")


async def test_the_one_of_several_pictures_that_is_wrong_is_named(serve: Serve) -> None:
    client = await serve()
    for stream in (False, True):
        error = await refused(client, chat(images=[BASE64, "AAAA", BASE64], stream=stream))
        assert (error.status_code, "Picture 2 of 3: " in str(error)) == (415, True)
        error = await refused(client, chat("<VQA> bad", [BASE64] * 2, stream=stream))
        assert (error.status_code, "Picture 1 of 2: A bad picture." in str(error)) == (415, True)
        error = await refused(client, chat("<NONSENSE>", [BASE64] * 2, stream=stream))
        assert "Picture" not in str(error)  # which is no picture's fault


async def test_structured_answers_are_json(serve: Serve) -> None:
    client = await serve()
    answer = json.loads(await said(client, chat("<CAPTION_TO_PHRASE_GROUNDING> located")))
    assert answer["labels"] == ["a car"]
    assert json.loads(await said(client, chat("<OD>"))) == {"bboxes": [], "labels": []}


class Caption(pydantic.BaseModel):
    caption: str
    boxes: list[int] = []


async def test_an_answer_in_json_has_the_form_that_is_asked(serve: Serve) -> None:
    client = await serve()
    async with sdk(client) as ai:
        parsed = await ai.chat.completions.parse(response_format=Caption, **chat())
        assert parsed.choices[0].message.parsed == Caption(caption=FAKE)
        async with ai.chat.completions.stream(response_format=Caption, **chat()) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.parsed == Caption(caption=FAKE)
    as_object: dict[str, Any] = {"response_format": {"type": "json_object"}}
    assert json.loads(await said(client, chat(**as_object))) == {"result": FAKE}
    assert json.loads(await said(client, chat(images=[BASE64] * 2, **as_object))) == [{"result": FAKE}] * 2
    assert json.loads(await said(client, chat(images=[], **as_object))) == {"result": NO_IMAGE}
    assert set(json.loads(await said(client, chat("<MIXED_CAPTION>", **as_object)))) == {"caption", "tags"}
    assert json.loads(await said(client, chat("<OD>", **as_object))) == {"bboxes": [], "labels": []}
    unnamed: Any = {"type": "json_schema", "json_schema": {"name": "any"}}
    assert json.loads(await said(client, chat(response_format=unnamed))) == {"result": FAKE}
    assert await said(client, chat(response_format={"type": "text"})) == FAKE
    wrongs: tuple[Any, ...] = ("json", {}, {"type": "yaml"}, {"type": "json_schema"}, ["text"])
    for wrong in wrongs:
        error = await refused(client, chat(response_format=wrong))
        assert (error.status_code, error.code, "response_format" in str(error)) == (400, "bad_option", True)


IMAGE_URLS: list[Any] = [
    {"url": f"data:image/png;base64,{BASE64}"},
    {"url": f"DATA:image/jpeg;BASE64,{BASE64}", "detail": "high"},
    {"url": f"data:;base64,{BASE64}"},
    f"data:text/plain;base64,{BASE64}",
    BASE64,
]


@pytest.mark.parametrize("image_url", IMAGE_URLS)
async def test_every_spelling_of_a_picture(serve: Serve, image_url: Any) -> None:
    client = await serve()
    parts = ["<FAKE>", {"image_url": image_url}, {"type": "input_audio", "input_audio": {}}]
    response = await client.post(ROUTE, json={"messages": [{"role": "user", "content": parts}], "foo": [1]})
    assert (await response.json())["choices"][0]["message"]["content"] == FAKE


async def test_parts_may_have_every_field_of_both_kinds(serve: Serve) -> None:
    """As they are written where one type stands for all parts; what a part is not is null there."""
    client = await serve()
    parts = [
        {"type": "text", "text": "<FAKE>", "image_url": None},
        {"type": "image_url", "text": None, "image_url": {"url": f"data:image/png;base64,{BASE64}", "detail": None}},
    ]
    assert await said(client, {"model": "toy", "messages": [{"role": "user", "content": parts}]}) == FAKE


@pytest.mark.parametrize("stream", [False, True])
async def test_open_webui_asks_for_a_title(serve: Serve, stream: bool) -> None:
    """A text without pictures: a short sentence at once, and nothing loads."""
    client = await serve()
    text = "### Task:\nGenerate a concise, 3-5 word title with an emoji.\n### Output:\nJSON format."
    body: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": text}], "max_tokens": 1000}
    if stream:
        answer = await (await client.post(ROUTE, json={**body, "stream": True})).text()
        assert NO_IMAGE in answer
    else:
        assert await said(client, body) == NO_IMAGE
    assert (await (await client.get("/status")).json())["loads"] == 0


async def test_open_webui_sends_its_history_along(serve: Serve) -> None:
    """The shape it sends; only the picture of the last message of the user is looked at."""
    client = await serve()
    other = base64.b64encode(OTHER).decode()
    history = [
        {"role": "system", "content": "You are helpful."},
        *asking([BASE64], "<OD>"),
        {"role": "assistant", "content": '{"bboxes": [], "labels": []}'},
    ]
    body = {"model": "toy", "messages": [*history, *asking([other], "<FAKE>")]}
    assert await said(client, body) == f"<FAKE>||{len(OTHER)}"
    body["messages"] = [*history, {"role": "user", "content": "And what colour is it?"}]
    assert await said(client, body) == NO_IMAGE


async def test_the_text_says_the_prompt_and_the_fields_how(serve: Serve) -> None:
    client = await serve(phrases=(("describe", "<DETAILED_CAPTION>"),), default_prompt="<MORE_DETAILED_CAPTION>")
    assert (await said(client, chat("What is this?"))).startswith("<MORE_DETAILED_CAPTION>|")
    assert (await said(client, chat("Please DESCRIBE this."))).startswith("<DETAILED_CAPTION>|")
    assert (await said(client, chat("<VQA> what colour?"))).startswith("<VQA>|what colour?|")
    region = chat("<REGION_TO_CATEGORY>", extra_body={"region": [1, 2, 30, 40], "num_beams": 1})
    assert (await said(client, region)).startswith("<REGION_TO_CATEGORY>|")
    for name, wrong in (("n", 9), ("n", 0), ("max_tokens", 1.5), ("max_completion_tokens", "many"), ("num_beams", 9)):
        error = await refused(client, chat(extra_body={name: wrong}))
        assert (error.status_code, error.code) == (400, "bad_option")
        assert f"{name} must" in str(error)


async def test_tokens_are_limited_as_asked(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await serve()
    assert client.app is not None
    seen: list[int | None] = []
    submit = client.app[QUEUE].submit

    async def seeing(job: Request, place: Place) -> Outcome:
        seen.append(job.options.max_new_tokens)
        return await submit(job, place)

    monkeypatch.setattr(client.app[QUEUE], "submit", seeing)
    asked: tuple[tuple[dict[str, Any], int | None], ...] = (
        ({"max_tokens": 12}, 12),
        ({"max_tokens": 12, "max_completion_tokens": 34}, 34),
        ({"max_tokens": 12, "max_completion_tokens": -1}, None),
        ({}, None),
        *(({"max_tokens": beyond}, None) for beyond in (-1, 0, 1024, 4096, 128_000)),  # ceilings that nothing reaches
        ({"max_tokens": 12, "extra_body": {"max_new_tokens": 56}}, 56),
    )
    for limits, _ in asked:
        await said(client, chat(**limits))
    assert seen == [most for _, most in asked]


async def test_n_choices_are_alike(serve: Serve) -> None:
    client = await serve()
    async with sdk(client) as ai:
        answer = await ai.chat.completions.create(**chat(n=2))
    assert [(one.index, one.message.content) for one in answer.choices] == [(0, FAKE), (1, FAKE)]


async def test_models(serve: Serve, two: Any, status_becomes: StatusBecomes) -> None:
    client = await serve(models=two, model="owner/toy", model_aliases=(("gpt-4o", "fine-tune"),))
    async with sdk(client) as ai:
        listed = [model.id async for model in ai.models.list()]
        assert listed == ["owner/Toy", "fine-tune"]
        for name, found in [
            *zip(listed, listed, strict=True),
            ("owner/toy:latest", "owner/Toy"),
            ("GPT-4o", "fine-tune"),
        ]:
            assert (await ai.models.retrieve(name)).id == found
        with pytest.raises(openai.NotFoundError) as caught:
            await ai.models.retrieve("gpt-5")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        for name in ("a%0Ab", "%7Bid%7D", "..%2F..%2Fetc"):
            answered = await client.get(URL(f"/v1/models/{name}", encoded=True))
            assert (answered.status, (await answered.json())["error"]["code"]) == (404, "model_not_found"), name
        answer = await ai.chat.completions.create(**{**chat("<VQA> model"), "model": "gpt-4o"})
    assert (answer.model, answer.choices[0].message.content) == ("fine-tune", f"<VQA>|fine-tune|{len(PNG)}")
