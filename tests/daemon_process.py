"""A daemon in a process of its own, for tests that start, watch and end it. Not a test."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request
from typing import Any

from vision_server import settings

GIF = b"GIF89a\1\0\1\0\0\0\0\x2c\0\0\0\0\1\0\1\0\0"
ENVIRONMENT = settings.environment_without_settings()


class Daemon:
    """A running daemon. `first_line` is the first that names its address, `url`; debugging lines may come before it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self.process = process
        self.before = ""
        for self.first_line in process.stderr:
            if found := re.search(r"listens on (http://\S+:\d+)", self.first_line):
                self.url = found[1]
                return
            self.before += self.first_line
        raise AssertionError(f"the daemon did not start: {self.before}")

    def call(self, path: str, body: bytes | None = None) -> tuple[int, Any]:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "x/y"} if body is not None else {})
        try:
            with urllib.request.urlopen(request, timeout=280) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def caption(self, text: str) -> tuple[int, Any]:
        return self.call(f"/process_image?prompt=FAKE&text_input={text}", GIF)

    def until_in_flight(self, count: int) -> int:
        """Wait until the worker holds so many; its process id."""
        while (status := self.call("/status")[1])["in_flight"] != count:
            pass
        return int(status["worker_pid"])
