"""The four dialects against the whole house: the embedded checkpoint says the same in each."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.daemon_process import Daemon
from tests.demo_daemon import PICTURES, caption, demo_daemon
from tests.dialects import DIALECTS, Dialect

ASKED = (("<CAPTION>", ""), ("<OD>", ""), ("<OCR_WITH_REGION>", ""), ("<CAPTION_TO_PHRASE_GROUNDING>", "a sign"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with demo_daemon(tmp_path_factory.mktemp("config"), more="model_aliases: {gpt-4o: demo}\n") as running:
        yield running


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_the_same_answers(dialect: Dialect, daemon: Daemon) -> None:
    for picture in PICTURES[:3]:
        for prompt, text in ASKED:
            body = dialect.body(picture.read_bytes(), prompt, text)
            status, answer = daemon.call(dialect.path, json.dumps(body).encode())
            assert (status, dialect.says(answer)) == (200, caption(daemon, picture, prompt, text))


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_picture_that_breaks_off_is_the_clients_fault(dialect: Dialect, daemon: Daemon) -> None:
    body = dialect.body(PICTURES[0].read_bytes()[:600], "<CAPTION>")
    status, answer = daemon.call(dialect.path, json.dumps(body).encode())
    assert (status, "picture" in dialect.blames(answer) or "image" in dialect.blames(answer)) == (415, True)
    assert daemon.call("/status")[1]["restarts"] == 0
