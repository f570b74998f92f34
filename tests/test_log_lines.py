"""The log of a real daemon and its real worker: every line about a request carries its id, in both forms."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.daemon_process import ENVIRONMENT, Daemon

ID = "seen-in-both-1"
TEXT = re.compile(r"\S+ (?P<level>[A-Z]+) +(?P<logger>[\w.]+): (?P<message>.*?)(?: \[(?P<request_id>\S+)\])?")


def broken_png() -> bytes:
    """Its header is sound, so the daemon lets it in; its pixels are not, so the worker cannot decode it."""
    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 90).save(buffer, "PNG")
    whole = buffer.getvalue()
    return whole[: len(whole) // 2]


@contextlib.contextmanager
def running(folder: Path, *words: str) -> Iterator[Daemon]:
    config = folder / "config.yaml"
    config.write_text("model: demo\ndtype: float32\nport: 0\n")
    command = [sys.executable, "-m", "vision_server", "--config", str(config), "--log-level", "debug", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            yield Daemon(process)
        finally:
            process.kill()


def entries(daemon: Daemon, form: str, until: str) -> Iterator[dict[str, object]]:
    """What is logged, up to the line about POST /process_image that begins with `until`."""
    assert daemon.process.stderr is not None
    for line in daemon.process.stderr:
        if form == "json":
            entry = json.loads(line)
        elif found := TEXT.fullmatch(line.rstrip("\n")):
            entry = found.groupdict()
        else:
            assert line.startswith("    "), line  # of a traceback
            continue
        yield entry
        if entry["message"].startswith(f"{until} POST /process_image"):
            return
    raise AssertionError(f"no {until}")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_picture_that_fails_in_the_worker(form: str, tmp_path: Path) -> None:
    with running(tmp_path, "--log-format", form) as daemon:
        url = f"{daemon.url}/process_image?prompt=CAPTION_TO_PHRASE_GROUNDING&text_input=private+words"
        request = urllib.request.Request(url, broken_png(), {"X-Request-Id": ID})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=200)
        with refused.value:
            assert refused.value.code == 415
        seen = list(entries(daemon, form, "failed"))
        about = [(entry["logger"], str(entry["message"]).split()[0]) for entry in seen if entry.get("request_id") == ID]
        assert ("vision_server.jobs", "accepted,") in about
        assert "vision_server.worker.stepper" in {logger for logger, _ in about}
        assert about[-1] == ("vision_server.api.middleware", "failed")
        assert "private" not in str(seen)
        request = urllib.request.Request(
            f"{daemon.url}/process_image", Path("vision_server/samples/scene-02.png").read_bytes(), {"X-Request-Id": ID}
        )
        with urllib.request.urlopen(request, timeout=200):
            pass
        answered = list(entries(daemon, form, "answered"))[-1]
        assert answered["request_id"] == ID
        names = ["status", "ms", "queue_ms", "load_ms", "decode_ms", "encode_ms", "generate_ms"]
        names += ["prompt_tokens", "new_tokens"]
        if form == "text":
            said = dict(part.split("=") for part in str(answered["message"]).split() if "=" in part)
            assert list(said) == names
            assert (said["status"], int(said["new_tokens"]) > 3) == ("200", True)
        else:
            assert set(names) <= set(answered)
            assert (answered["status"], answered["message"]) == (200, "answered POST /process_image")
