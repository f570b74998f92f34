"""Our daemon and `litserve_server`, each asked the same pictures at once by HTTP, in turns. Not a benchmark by itself:
a row of `compare`.

Both have loaded the model before anything is timed. LitServe's worker asks its queue a thousand times a second even
when nothing comes, so its processes are stopped while it is our daemon's turn; our daemon asks nothing while idle.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from tests.bench.daemons import ROOT, asked_at_once, running
from tests.bench.rows import in_turns
from vision_server.settings import let_waiting_threads_sleep
from vision_server.worker.resources import usable_cores

QUEUED = 8
PROMPT = "<CAPTION>"  # our daemon's default; transformers' processor knows it too
START_S = 180.0
END_S = 30.0

Pictures = Sequence[bytes]


@dataclass(frozen=True)
class Answers:
    """Seconds from the first request to the last answer, and the texts in order."""

    seconds: float
    texts: list[str]


def installed() -> bool:
    """Asked without importing it: that brings a web framework into this process."""
    return importlib.util.find_spec("litserve") is not None


def rounds(directory: Path, tokens: int, threads: int, asked: Sequence[Pictures]) -> list[tuple[Answers, Answers]]:
    """(ours, LitServe's) for each of `asked`, which are picture files, after one caption from each that is not counted.
    Answers have `tokens` tokens, and each side `threads` threads.

    Raises AssertionError when an answer fails or has not so many tokens, or when LitServe does not start."""
    let_waiting_threads_sleep()  # LitServe's too: where they do not, whatever else runs slows that side far more
    with litserve(directory, tokens, threads) as theirs, running(*_flags(directory)) as daemon:
        if threads < usable_cores():  # our worker takes as many threads as it may use cores
            held = psutil.Process(daemon.process.pid)
            held.cpu_affinity((held.cpu_affinity() or [])[:threads])
        path = f"/process_image?max_new_tokens={tokens}"

        def ours(pictures: Pictures) -> Answers:
            seconds, said = asked_at_once(daemon, path, pictures)
            return Answers(seconds, [one["result"] for one in said])

        ours(asked[0][:1])
        theirs.wait_until_ready()
        theirs.ask(asked[0][:1], tokens)
        return in_turns(
            len(asked), lambda number: ours(asked[number]), lambda number: theirs.ask(asked[number], tokens)
        )


def _flags(directory: Path) -> list[str]:
    flags = {"--model": directory, "--device": "cpu", "--dtype": "float32", "--feature-cache": 0, "--idle-timeout": -1}
    return [str(word) for flag in flags.items() for word in flag]


class LitServe:
    """A `litserve_server`. Once it is ready, its processes run only while it is asked."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._process, self._log = process, log
        self._children: list[psutil.Process] = []

    def wait_until_ready(self) -> None:
        """Raises AssertionError with its last words when it ended or took longer than START_S."""
        give_up_s = time.monotonic() + START_S
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > give_up_s:
                self._log.seek(0)
                raise AssertionError(f"LitServe did not start: {self._log.read().decode(errors='replace')[-2000:]}")
            time.sleep(0.1)
        self._let_run(False)

    def ask(self, pictures: Pictures, tokens: int) -> Answers:
        bodies = [request_body(picture) for picture in pictures]
        self._let_run(True)
        try:
            seconds, said = asked_at_once(self, "/predict", bodies)
        finally:
            self._let_run(False)
        counts = [one["tokens"] for one in said]
        assert counts == [tokens] * len(said), f"{tokens} tokens were asked for, but the answers have {counts}"
        return Answers(seconds, [one["result"] for one in said])

    def processes(self) -> list[psutil.Process]:
        """The one that was started, then all that it started."""
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def end(self) -> None:
        """Kill all its processes and wait until they are gone; what is stopped can be killed as well."""
        left = set(self._children)
        with contextlib.suppress(psutil.NoSuchProcess):
            left.update(self.processes())
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(END_S)
        psutil.wait_procs(left, END_S)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _let_run(self, run: bool) -> None:
        """The first process always runs: it ends the others when this one is no more."""
        self._children = self.processes()[1:]
        for child in self._children:
            with contextlib.suppress(psutil.NoSuchProcess):  # a short-lived one, of a library that starts a tool
                if run:
                    child.resume()
                else:
                    child.suspend()


@contextlib.contextmanager
def litserve(directory: Path, tokens: int, threads: int) -> Iterator[LitServe]:
    """It is being started on a free port of 127.0.0.1; at the end all its processes are killed and waited for."""
    flags = {"--port": _free_port(), "--tokens": tokens, "--threads": threads}
    words = [str(word) for flag in flags.items() for word in flag]
    command = [sys.executable, "-m", "tests.bench.litserve_server", str(directory), *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
        server = LitServe(process, flags["--port"], log)
        try:
            yield server
        finally:
            server.end()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def request_body(picture: bytes) -> bytes:
    return json.dumps({"image": base64.b64encode(picture).decode("ascii"), "prompt": PROMPT}).encode()
