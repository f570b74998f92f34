"""A copy of the checkout's top with toys in place of Python and pip, for tests of vision-server.sh. Not a test."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Everything the launcher calls; PATH holds nothing else, so a tool it grows to need shows here.
TOOLS = (
    "bash awk cat cksum df dirname env find grep ln mkdir ps readlink rm sed sleep tail cp touch chmod mkfifo".split()
)

TOY_PYTHON = r"""#!/usr/bin/env bash
# Plays python3 and, copied into .venv, the Python of the environment.
printf '%s\n' "$(basename_of "$0")|$PWD|$*" >>"$TOY/calls"
here=$(dirname "$0")
case "$*" in
    *version_info*)
        case "$*" in *print*) echo "${TOY_VERSION-3.11.7}" ;; esac
        [ -z "${TOY_TOO_OLD-}" ] ;;
    *ensurepip*) [ -z "${TOY_NO_VENV-}" ] ;;
    '-m venv '*)
        [ -z "${TOY_VENV_FAILS-}" ] || { echo 'Error: no room in the inn'; exit 1; }
        mkdir -p "$3/bin" && touch "$3/pyvenv.cfg" && cp "$0" "$3/bin/python" ;;
    '-m pip install '*)
        if [ -n "${TOY_PIP_WAITS-}" ]; then echo "$$" >"$TOY/waiting"; read -r _ <"$TOY/gate"; fi
        if [ -n "${TOY_PIP_FAILS-}" ]; then printf '%s\n' "$TOY_PIP_FAILS"; exit 1; fi
        echo 'noise of pip' >&2
        cp "$TOY/daemon" "$here/vision-server" ;;
    '-m ruff check '*) [ -z "${TOY_RUFF_FAILS-}" ] ;;
    '-m pytest'*) echo '== 3 passed in 0.01s =='; exit "${TOY_PYTEST_STATUS-0}" ;;
esac
""".replace('$(basename_of "$0")', '${0#"$TOY"/}')

TOY_DAEMON = r"""#!/usr/bin/env bash
trap 'echo stopped; exit 7' TERM
printf '%s\n' "$$" "$@"
if [ -n "${TOY_STAYS-}" ]; then while :; do read -r _ <"$TOY/gate"; done; fi
"""


class Checkout:
    """The top of a checkout in a folder whose name has spaces, and the toys around it."""

    def __init__(self, tmp: Path) -> None:
        self.toy = tmp / "toy box"
        self.root = tmp / "a check out"
        self.bin = self.toy / "bin"
        self.env: dict[str, str] = {}
        self.bin.mkdir(parents=True)
        self.root.mkdir()
        for name in ("vision-server.sh", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        for tool in TOOLS:
            where = shutil.which(tool)
            if where is None:
                pytest.skip(f"{tool} is not on this machine")
            (self.bin / tool).symlink_to(where)
        (self.toy / "daemon").write_text(TOY_DAEMON)
        (self.toy / "daemon").chmod(0o755)
        (self.bin / "python3").write_text(TOY_PYTHON)
        (self.bin / "python3").chmod(0o755)
        os.mkfifo(self.toy / "gate")
        os.mkfifo(self.toy / "waiting")

    def start(self, *args: str, cwd: Path | None = None, script: str | Path = "", **env: str) -> subprocess.Popen[str]:
        environment = {"PATH": str(self.bin), "TOY": str(self.toy), "HOME": str(self.toy)} | self.env | env
        command = [str(script or self.root / "vision-server.sh"), *args]
        return subprocess.Popen(
            command, cwd=cwd, env=environment, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *args: str, cwd: Path | None = None, script: str | Path = "", **env: str) -> tuple[int, str, str]:
        process = self.start(*args, cwd=cwd, script=script, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self, containing: str = "") -> list[str]:
        """The arguments of each call of a toy Python so far that hold `containing`."""
        log = self.toy / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        return [words for words in (line.split("|", 2)[2] for line in lines) if containing in words]

    def forget(self) -> None:
        (self.toy / "calls").unlink()

    @property
    def venv(self) -> Path:
        return self.root / ".venv"
