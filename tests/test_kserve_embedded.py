"""The programs that a Triton deployment of Florence-2 is asked by, against a daemon with the embedded checkpoint."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pytest
import tritonclient.http as triton

from tests.daemon_process import Daemon
from tests.demo_daemon import PICTURES as BUNDLED
from tests.demo_daemon import caption, demo_daemon
from tests.triton import answers, batch

PICTURES = [picture for picture in BUNDLED if picture.suffix == ".png"][:4]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with demo_daemon(tmp_path_factory.mktemp("config")) as running:
        yield running


def request_of(picture: Path, task_prompt: str, text_prompt: str | None = None) -> dict[str, Any]:
    """What both programs send: the file in base64, and the texts, each as a tensor of one element."""
    encoded = base64.b64encode(picture.read_bytes()).decode()
    values = {"INPUT_IMAGE": encoded, "TASK_PROMPT": task_prompt}
    if text_prompt:
        values["TEXT_PROMPT"] = text_prompt
    inputs = [{"name": name, "shape": [1, 1], "datatype": "BYTES", "data": [data]} for name, data in values.items()]
    return {"id": uuid.uuid4().hex, "inputs": inputs}


def post(daemon: Daemon, request: dict[str, Any]) -> dict[str, Any]:
    status, body = daemon.call("/v2/models/florence2/infer", json.dumps(request).encode())
    assert status == 200, body
    return dict(body)


def test_the_program_for_one_picture(daemon: Daemon) -> None:
    request = request_of(PICTURES[0], "<CAPTION>")
    response = post(daemon, request)
    assert (response["id"], response["model_name"]) == (request["id"], "florence2")
    parsed = json.loads(response["outputs"][0]["data"][0])
    assert parsed == {"<CAPTION>": caption(daemon, PICTURES[0], "CAPTION")}


@pytest.mark.parametrize(
    ("task_prompt", "text_prompt"), [("<CAPTION>", None), ("<OD>", None), ("<CAPTION_TO_PHRASE_GROUNDING>", "a sign")]
)
def test_the_program_for_a_folder(daemon: Daemon, task_prompt: str, text_prompt: str | None) -> None:
    results: dict[Path, Any] = {}
    with ThreadPoolExecutor(max_workers=4) as pool:
        futures = {pool.submit(post, daemon, request_of(one, task_prompt, text_prompt)): one for one in PICTURES}
        for future in as_completed(futures):
            results[futures[future]] = json.loads(future.result()["outputs"][0]["data"][0])
    assert results == {one: {task_prompt: caption(daemon, one, task_prompt, text_prompt or "")} for one in PICTURES}


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client(daemon: Daemon, binary: bool) -> None:
    expected = [{"<OD>": caption(daemon, one, "OD")} for one in PICTURES]
    with triton.InferenceServerClient(daemon.url.removeprefix("http://"), network_timeout=120.0) as server:
        server.load_model("florence2")
        assert daemon.call("/status")[1]["state"] == "ready"
        pictures = [one.read_bytes() for one in PICTURES]
        result = server.infer("florence2", batch(pictures, b"<OD>", binary=binary), request_id="one")
        assert answers(result) == expected
        with pytest.raises(triton.InferenceServerException, match="Picture 2 of 2"):
            server.infer("florence2", batch([pictures[0], pictures[1][:300]], b"<OD>"))
        [stats] = server.get_inference_statistics("florence2")["model_stats"]
        figures = stats["inference_stats"]
        assert figures["success"]["count"] > 0
        assert figures["compute_infer"]["ns"] > 1_000_000
        assert figures["queue"]["ns"] + figures["compute_infer"]["ns"] <= figures["success"]["ns"]
        server.unload_model("florence2")
        status = daemon.call("/status")[1]
        assert (status["state"], status["worker_pid"], status["restarts"]) == ("unloaded", None, 0)
        assert server.is_model_ready("florence2")
