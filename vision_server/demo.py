"""What `vision-server demo` does: a daemon of its own captions the bundled pictures, and then gives its worker back.

Everything goes through HTTP to a real daemon process on a free loopback port, which reads no settings but these.
"""

from __future__ import annotations

import collections
import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from . import images, settings
from .tasks import answer, of_token
from .tasks.regions import overlap

DAEMON = (sys.executable, "-m", "vision_server")
SAMPLES = Path(__file__).parent / "samples"
_START_TIMEOUT_S = 60
_ANSWER_TIMEOUT_S = 600  # the first one waits for the model to load, on a slow machine from a slow disk
_STOP_TIMEOUT_S = 40
RIGHT_OVERLAP = 0.5  # intersection over union, as detection benchmarks count at the least
_PICTURE_COLUMNS, _PROMPT_COLUMNS, _TAIL_COLUMNS = 18, 20, 14
# A proxy that the environment names is for other machines, not for this one.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class DemoError(Exception):
    """Why the demo cannot go on, in one line."""


def main(flags: Mapping[str, str], folder: Path = SAMPLES, command: Sequence[str] = DAEMON) -> int:
    """Run it; 0 unless the demo itself failed. Answers that differ from the truth are shown and counted, no failure."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an old terminal shows ? for what it cannot, and the demo goes on
    try:
        samples = read_samples(folder)
        with running_daemon(flags, command) as url:
            _caption_all(url, folder, samples)
            _release(url)
    except (DemoError, OSError) as error:
        sys.stdout.flush()
        sys.stderr.write(f"vision-server demo: {error}\n")
        return 1
    return 0


@dataclass(frozen=True)
class Sample:
    """`truth` maps a prompt to the text that a perfect model would generate."""

    file: str
    truth: dict[str, str]


def read_samples(folder: Path) -> list[Sample]:
    """The pictures that truth.json lists. Raises DemoError."""
    try:
        listed = json.loads((folder / "truth.json").read_text(encoding="utf-8"))["pictures"]
        samples = [Sample(str(one["file"]), dict(one["truth"])) for one in listed]
    except (OSError, ValueError, KeyError, TypeError):
        raise DemoError("the bundled pictures are missing: install vision-server again.") from None
    if not samples:
        raise DemoError("the list of bundled pictures is empty: install vision-server again.")
    return samples


@contextlib.contextmanager
def running_daemon(flags: Mapping[str, str], command: Sequence[str] = DAEMON) -> Iterator[str]:
    """The URL of a daemon that lives as long as the block. Raises DemoError with the daemon's own last line."""
    chosen = [word for name, value in flags.items() for word in (settings.TABLE[name].flag, value)]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "empty.yaml"
        config.touch()
        daemon = subprocess.Popen(
            [*command, "--config", str(config), "--port", "0", *chosen],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=settings.environment_without_settings(),
        )
        reader = _LogReader(daemon)
        try:
            yield reader.url()
        finally:
            daemon.terminate()
            try:
                daemon.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
            reader.join()


class _LogReader(threading.Thread):
    """Reads the daemon's log to its end, so that its pipe never fills; keeps the URL and the last lines."""

    def __init__(self, daemon: subprocess.Popen[str]) -> None:
        super().__init__(daemon=True)
        self._daemon = daemon
        self._tail: collections.deque[str] = collections.deque(maxlen=20)
        self._url: str | None = None
        self._known = threading.Event()
        self.start()

    def run(self) -> None:
        assert self._daemon.stderr is not None
        with self._daemon.stderr as lines:
            for line in lines:
                self._tail.append(line.rstrip())
                if self._url is None and (found := re.search(r"listens on (http://\S+?),", line)):
                    self._url = found[1]
                    self._known.set()
        self._known.set()

    def url(self) -> str:
        self._known.wait(_START_TIMEOUT_S)
        if self._url is None:
            last = self._tail[-1] if self._tail else "it said nothing"
            raise DemoError(f"the daemon did not start: {last.removeprefix('vision-server: ')}")
        return self._url


def _caption_all(url: str, folder: Path, samples: list[Sample]) -> None:
    known = _call(url + "/prompts")
    prompts = [prompt for prompt in known if of_token(prompt).input not in ("text", "region")]
    sys.stdout.write(f"vision-server at {url}, model {_call(url + '/model')}\n")
    if left_out := [prompt for prompt in known if prompt not in prompts]:
        sys.stdout.write(f"Not asked, since they want a text or a region besides: {', '.join(left_out)}\n")
    sys.stdout.write("\n")
    width = shutil.get_terminal_size((120, 40)).columns
    sys.stdout.write(row("picture", "prompt", "answer", "right", "time", width))
    right = compared = 0
    began_s = time.monotonic()
    for sample in samples:
        data = (folder / sample.file).read_bytes()
        for prompt in prompts:
            asked_s = time.monotonic()
            result = _call(f"{url}/process_image?prompt={urllib.parse.quote(prompt)}", data)["result"]
            took_s = time.monotonic() - asked_s
            mark = ""
            if prompt in sample.truth:
                compared += 1
                agreed = agrees(result, _expected(prompt, sample.truth[prompt], data))
                right += agreed
                mark = "yes" if agreed else "no"
            sys.stdout.write(row(sample.file, prompt, shown(result), mark, f"{took_s:.2f} s", width))
            sys.stdout.flush()
    total_s = time.monotonic() - began_s
    asked = len(samples) * len(prompts)
    sys.stdout.write(
        f"\n{len(samples)} pictures, {asked} answers in {total_s:.1f} s, one after the other, loading included.\n"
        f"{right} of {compared} are right: texts to the letter, boxes with the right labels and an overlap of half.\n"
    )


def _expected(prompt: str, truth: str, data: bytes) -> str | dict[str, Any]:
    header = images.read(data)
    return answer(prompt, truth, (header.width, header.height))


def agrees(result: str | dict[str, Any], truth: str | dict[str, Any]) -> bool:
    """Whether an answer is right. Places are measured, so boxes of the same labels need only overlap by half."""
    if not (isinstance(result, dict) and isinstance(truth, dict) and "bboxes" in result and "bboxes" in truth):
        return result == truth
    if result["labels"] != truth["labels"]:
        return False
    return all(overlap(*boxes) >= RIGHT_OVERLAP for boxes in zip(result["bboxes"], truth["bboxes"], strict=True))


def _release(url: str) -> None:
    before = _call(url + "/status")
    pid = before["worker_pid"]
    sys.stdout.write(f"\nThe worker is process {pid}, state {before['state']}. Releasing it (POST /unload) ...\n")
    after = _call(url + "/unload", b"")
    if after["state"] != "unloaded" or (pid is not None and psutil.pid_exists(pid)):
        raise DemoError(f"the worker, process {pid}, was not released.")
    sys.stdout.write(f"Process {pid} is gone, state {after['state']}. The next request would start a new one.\n")


def _call(url: str, body: bytes | None = None) -> Any:
    """GET, or POST where there is a body; the JSON answer. Raises DemoError with the server's own words."""
    headers = {} if body is None else {"Content-Type": "application/octet-stream"}
    try:
        with _OPENER.open(urllib.request.Request(url, body, headers), timeout=_ANSWER_TIMEOUT_S) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode("utf-8", "replace")
        with contextlib.suppress(ValueError, TypeError, KeyError):
            text = json.loads(text)["error"]
        raise DemoError(f"the daemon answered {error.code}: {text[:300]}") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DemoError(f"the daemon does not answer ({type(error).__name__}).") from None


def shown(result: str | dict[str, Any]) -> str:
    """An answer on one line: text as it is; places as `label [x1 y1 x2 y2]`, whole pixels."""
    if isinstance(result, dict) and set(result) == {"bboxes", "labels"}:
        boxes = zip(result["labels"], result["bboxes"], strict=True)
        result = ", ".join(f"{label} [{' '.join(f'{v:.0f}' for v in box)}]" for label, box in boxes) or "nothing"
    elif isinstance(result, dict):
        result = json.dumps(result, ensure_ascii=False)
    return " ".join(result.split()) or "(empty)"


def row(picture: str, prompt: str, answer_text: str, right: str, took: str, width: int) -> str:
    """A line of the table, cut to `width` columns; a terminal narrower than the other columns need gets them anyway."""
    room = max(width - _PICTURE_COLUMNS - _PROMPT_COLUMNS - _TAIL_COLUMNS - 4, 20)
    cells = [fit(picture, _PICTURE_COLUMNS), fit(prompt, _PROMPT_COLUMNS), fit(answer_text, room)]
    return f"{' '.join(cells)} {right:>5} {took:>8}\n"


def fit(text: str, columns: int) -> str:
    """Cut or padded to a number of terminal columns; what cannot be printed becomes a question mark."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    if _columns(text) > columns:
        text = text[:columns]
        while _columns(text) > columns - 3:
            text = text[:-1]
        text += "..."
    return text + " " * (columns - _columns(text))


def _columns(text: str) -> int:
    """East Asian characters are two columns wide, combining ones none."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)
