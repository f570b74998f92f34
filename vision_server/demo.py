"""What `vision-server demo` does: a daemon of its own answers every question about the bundled pictures.

The answers are compared with what is true and drawn into copies of the pictures; then the daemon gives its worker back.
Everything goes through HTTP to a real daemon process on a free loopback port, which reads no settings but these.
"""

from __future__ import annotations

import collections
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from . import settings
from .client.server import ClientError, Server
from .client.sketch import draw_answer, open_upright, save
from .client.terminal import fit, never_fail_to_print, one_line
from .errors import VisionError
from .outlines import RIGHT_BOX_OVERLAP, RIGHT_OUTLINE_OVERLAP, agrees
from .tasks import answer, of_token

DAEMON = (sys.executable, "-m", "vision_server")
SAMPLES = Path(__file__).parent / "samples"
_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 40
_PROMPT_COLUMNS, _TAIL_COLUMNS, _LEAST_COLUMNS = 24, 14, 46


class DemoError(Exception):
    """Why the demo cannot go on, in one line."""


def main(
    flags: Mapping[str, str], folder: Path = SAMPLES, command: Sequence[str] = DAEMON, out: Path | None = None
) -> int:
    """Run it; 0 unless the demo itself failed. Answers that differ from the truth are shown and counted, no failure.

    `out` is the folder for the drawn answers; None makes a fresh one among the platform's temporary files.
    """
    never_fail_to_print()
    try:
        samples = read_samples(folder)
        with running_daemon(flags, command) as url:
            server = Server(url)
            out = out or Path(tempfile.mkdtemp(prefix="vision-server-demo-"))
            _ask_all(server, folder, samples, out)
            _release(server)
        sys.stdout.write(f"\nThe answers that have a place are drawn into the pictures in {out}\n")
    except (DemoError, ClientError, OSError) as error:
        sys.stdout.flush()
        sys.stderr.write(f"vision-server demo: {error}\n")
        return 1
    return 0


@dataclass(frozen=True)
class Question:
    """`region` is x1, y1, x2, y2 in pixels, None for none; `truth` is what a perfect model would generate."""

    prompt: str
    text: str
    region: list[float] | None
    truth: str


@dataclass(frozen=True)
class Sample:
    """A picture's file name, and what is asked of it."""

    file: str
    asked: list[Question]


def read_samples(folder: Path) -> list[Sample]:
    """The pictures that truth.json lists. Raises DemoError."""
    try:
        listed = json.loads((folder / "truth.json").read_text(encoding="utf-8"))["pictures"]
        samples = [
            Sample(str(one["file"]), [Question(q["prompt"], q["text"], q["region"], q["truth"]) for q in one["asked"]])
            for one in listed
        ]
    except (OSError, ValueError, KeyError, TypeError):
        raise DemoError("the bundled pictures are missing: install vision-server again.") from None
    if not any(sample.asked for sample in samples):
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


def _ask_all(server: Server, folder: Path, samples: list[Sample], out: Path) -> None:
    sys.stdout.write(f"vision-server at {server.url}, model {server.call('/model')}\n")
    prompts = server.prompts()
    known = {prompt.token for prompt in prompts if prompt.advised}
    wanted = {question.prompt for sample in samples for question in sample.asked}
    if untrained := [prompt.token for prompt in prompts if prompt.token in wanted - known]:
        sys.stdout.write(f"Not asked, since this model was not trained for them: {', '.join(untrained)}\n")
    tally = _Tally()
    began_s = time.monotonic()
    for sample in samples:
        questions = [question for question in sample.asked if question.prompt in known]
        if questions:
            _ask(server, folder / sample.file, questions, out, tally)
    total_s = time.monotonic() - began_s
    sys.stdout.write(f"\n{tally.total()} answers in {total_s:.1f} s, one after the other, loading included.\n")
    sys.stdout.write(tally.table())


def _ask(server: Server, path: Path, questions: list[Question], out: Path, tally: _Tally) -> None:
    """One picture: a row of the table for each question, and its answer drawn."""
    columns = shutil.get_terminal_size((120, 40)).columns
    data = path.read_bytes()
    try:
        picture = open_upright(data)
    except VisionError as error:
        raise DemoError(f"{path.name}: {error}") from None
    heading = f"{path.name}, {picture.width} x {picture.height} pixels"
    sys.stdout.write(f"\n{row(heading, 'right', 'time', columns)}")
    for question in questions:
        began_s = time.monotonic()
        result = server.caption(data, question.prompt, question.text, question.region)
        took_s = time.monotonic() - began_s
        agreed = agrees(result, answer(question.prompt, question.truth, picture.size), picture.size)
        tally.add(of_token(question.prompt).answer, agreed)
        name = question.prompt.strip("<>")
        told = f"  {fit(name, _PROMPT_COLUMNS)} {_input(question)}{one_line(result)}"
        sys.stdout.write(row(told, "yes" if agreed else "no", f"{took_s:.2f} s", columns))
        sys.stdout.flush()
        if (drawn := draw_answer(picture, result, question.region)) is not None:
            save(drawn, out, f"{path.stem}-{name}")


def _input(question: Question) -> str:
    if question.region is not None:
        return f"[{' '.join(f'{value:.0f}' for value in question.region)}] -> "
    return f'"{question.text}" -> ' if question.text else ""


class _Tally:
    """Right answers by kind."""

    def __init__(self) -> None:
        self._asked: collections.Counter[str] = collections.Counter()
        self._right: collections.Counter[str] = collections.Counter()

    def add(self, kind: str, right: bool) -> None:
        self._asked[kind] += 1
        self._right[kind] += right

    def total(self) -> int:
        return self._asked.total()

    def table(self) -> str:
        rows = [(kind.replace("_", " "), self._asked[kind], self._right[kind]) for kind in self._asked]
        rows.append(("all", self.total(), self._right.total()))
        lines = [f"{'kind of answer':20} {'asked':>6} {'right':>6}\n"]
        lines += [f"{kind:20} {asked:>6} {right:>6}\n" for kind, asked, right in rows]
        return (
            f"{''.join(lines)}Right are texts that are true to the letter; boxes, quads and polygons with the true\n"
            f"labels that overlap the true ones by {RIGHT_BOX_OVERLAP} (boxes) or {RIGHT_OUTLINE_OVERLAP} of their"
            " union.\n"
        )


def _release(server: Server) -> None:
    before = server.call("/status")
    pid = before["worker_pid"]
    sys.stdout.write(f"\nThe worker is process {pid}, state {before['state']}. Releasing it (POST /unload) ...\n")
    after = server.call("/unload", {})
    if after["state"] != "unloaded" or (pid is not None and psutil.pid_exists(pid)):
        raise DemoError(f"the worker, process {pid}, was not released.")
    sys.stdout.write(f"Process {pid} is gone, state {after['state']}. The next request would start a new one.\n")


def row(cells: str, right: str, took: str, columns: int) -> str:
    """A line of the table, its first cells cut so that all is `columns` wide, or what the others need at the least."""
    return f"{fit(cells, max(columns - _TAIL_COLUMNS - 2, _LEAST_COLUMNS))} {right:>5} {took:>8}\n"
