"""OpenAI's real package against the whole house: a daemon, the real worker, the embedded checkpoint."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.daemon_process import Daemon
from tests.demo_daemon import PICTURES, caption, demo_daemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with demo_daemon(tmp_path_factory.mktemp("config"), more="model_aliases: {gpt-4o: demo}\n") as running:
        yield running


@pytest.fixture
def ai(daemon: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", timeout=120) as client:
        yield client


def chat(text: str, *pictures: bytes, model: str = "demo") -> dict[str, Any]:
    parts: list[Any] = [{"type": "text", "text": text}]
    for data in pictures:
        url = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return {"model": model, "messages": [{"role": "user", "content": parts}]}


def test_models_answer_while_asleep(daemon: Daemon, ai: openai.OpenAI) -> None:
    assert [model.id for model in ai.models.list()] == ["demo"]
    assert ai.models.retrieve("gpt-4o").id == "demo"
    assert daemon.call("/status")[1]["state"] == "unloaded"


def test_the_answers_are_the_native_ones(daemon: Daemon, ai: openai.OpenAI) -> None:
    first, second = PICTURES[:2]
    answer = ai.chat.completions.create(**chat("What is this?", first.read_bytes(), model="gpt-4o"))
    assert answer.choices[0].message.content == caption(daemon, first)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 3
    for prompt, text in (("<OD>", ""), ("<CAPTION_TO_PHRASE_GROUNDING>", "a sign")):
        said = ai.chat.completions.create(**chat(f"{prompt} {text}", second.read_bytes()))
        assert json.loads(said.choices[0].message.content or "") == caption(daemon, second, prompt, text)


def test_a_stream_over_two_pictures_and_an_answer_cut_short(daemon: Daemon, ai: openai.OpenAI) -> None:
    body = chat("DETAILED_CAPTION", *(picture.read_bytes() for picture in PICTURES[:2]))
    chunks = list(ai.chat.completions.create(stream=True, **body))
    expected = "\n\n".join(caption(daemon, picture, "DETAILED_CAPTION") for picture in PICTURES[:2])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    short = ai.chat.completions.create(max_tokens=3, **body)
    assert short.choices[0].finish_reason == "length"
    for beyond in (300, 4096):  # more than this checkpoint has positions for
        whole = ai.chat.completions.create(max_tokens=beyond, **body)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (expected, "stop")


def test_a_broken_picture_is_the_clients_fault(daemon: Daemon, ai: openai.OpenAI) -> None:
    broken = PICTURES[0].read_bytes()[:200]
    with pytest.raises(openai.APIStatusError) as caught:
        ai.chat.completions.create(**chat("<CAPTION>", broken))
    assert (caught.value.status_code, caught.value.code) == (415, "bad_image")
    assert daemon.call("/status")[1]["restarts"] == 0
