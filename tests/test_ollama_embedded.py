"""Ollama's real package against the whole house: a daemon, the real worker, the embedded checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator

import ollama
import pytest

from tests.daemon_process import Daemon
from tests.demo_daemon import PICTURES, caption, demo_daemon

FIRST, SECOND = PICTURES[:2]
IMAGES = [ollama.Image(value=picture) for picture in (FIRST, SECOND)]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with demo_daemon(tmp_path_factory.mktemp("config"), more="model_aliases: {llava: demo}\n") as running:
        yield running


@pytest.fixture
def ai(daemon: Daemon) -> Iterator[ollama.Client]:
    with ollama.Client(daemon.url, timeout=280) as client:
        yield client


def test_it_is_listed_while_asleep_loaded_and_unloaded(daemon: Daemon, ai: ollama.Client) -> None:
    assert [model.model for model in ai.list().models] == ["demo:latest"]
    assert ai.show("llava").capabilities == ["completion", "vision"]
    assert ai.ps().models == []
    assert daemon.call("/status")[1]["state"] == "unloaded"
    assert ai.generate("demo", keep_alive="1h").done_reason == "load"
    [loaded] = ai.ps().models
    assert loaded.size is not None
    assert loaded.size > 12_000_000
    assert ai.generate("demo", keep_alive=0).done_reason == "unload"
    assert ai.ps().models == []
    assert daemon.call("/status")[1]["worker_pid"] is None


def test_the_answers_are_the_native_ones(daemon: Daemon, ai: ollama.Client) -> None:
    expected = caption(daemon, FIRST)
    answer = ai.generate("llava:latest", "What is this?", images=IMAGES[:1])
    assert (answer.response, answer.done_reason) == (expected, "stop")
    assert answer.eval_count is not None
    assert answer.eval_count > 3
    assert answer.eval_duration is not None
    assert answer.total_duration is not None
    assert 0 < answer.eval_duration < answer.total_duration
    for prompt, text in (("<OD>", ""), ("<CAPTION_TO_PHRASE_GROUNDING>", "a sign")):
        said = ai.chat("demo", [{"role": "user", "content": f"{prompt} {text}", "images": IMAGES[1:]}], format="json")
        assert json.loads(said.message.content or "") == caption(daemon, SECOND, prompt, text)


def test_a_stream_over_two_pictures_and_an_answer_cut_short(daemon: Daemon, ai: ollama.Client) -> None:
    pieces = list(ai.generate("demo", "DETAILED_CAPTION", images=IMAGES, stream=True))
    expected = "\n\n".join(caption(daemon, picture, "DETAILED_CAPTION") for picture in (FIRST, SECOND))
    assert "".join(piece.response or "" for piece in pieces) == expected
    short = ai.generate("demo", "DETAILED_CAPTION", images=IMAGES[:1], options={"num_predict": 3})
    assert short.done_reason == "length"
    assert expected.startswith(short.response or "?")
    whole = ai.generate("demo", "DETAILED_CAPTION", images=IMAGES, options={"num_predict": 300})
    assert (whole.response, whole.done_reason) == (expected, "stop")  # 300 is more than it has positions for


def test_a_broken_picture_is_the_clients_fault(daemon: Daemon, ai: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        ai.generate("demo", "<CAPTION>", images=[FIRST.read_bytes()[:200]])
    assert caught.value.status_code == 415
    assert daemon.call("/status")[1]["restarts"] == 0
