"""vision-server.bat for real, by Windows' cmd or Wine's, with a toy in place of Python and pip, as in test_launcher.py.

Skipped where there is neither, or no compiler for the toy (Debian: wine, gcc-mingw-w64-x86-64).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WINE = "" if sys.platform == "win32" else shutil.which("wine")
WINESERVER = shutil.which("wineserver") or shutil.which("wineserver", path="/usr/lib/wine")
COMPILER = shutil.which("x86_64-w64-mingw32-gcc") or (shutil.which("gcc") if sys.platform == "win32" else None)
pytestmark = pytest.mark.skipif(
    WINE is None or COMPILER is None or (WINE != "" and WINESERVER is None), reason="needs Windows or Wine, and MinGW"
)

TOY = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

static void add(const char *folder, const char *name, const char *text) {
    char path[1024];
    FILE *out;
    sprintf(path, "%s\\%s", folder, name);
    if ((out = fopen(path, "a"))) { fprintf(out, "%s\n", text); fclose(out); }
}

/* Plays the Python that PYTHON names, that of .venv, and, under its name, what pip has installed. */
int main(int count, char **words) {
    char self[1024], path[1024], all[4096] = "";
    GetModuleFileNameA(0, self, sizeof self);
    for (int i = 1; i < count; i++) { strcat(all, words[i]); strcat(all, "|"); }
    if (strstr(self, "vision-server.exe")) { printf("daemon %s\n", all); return 7; }
    add(getenv("TOY"), "calls", all);
    if (count > 3 && !strcmp(words[2], "venv")) {
        CreateDirectoryA(words[3], 0);
        sprintf(path, "%s\\Scripts", words[3]);
        CreateDirectoryA(path, 0);
        strcat(path, "\\python.exe");
        CopyFileA(self, path, 0);
        add(words[3], "pyvenv.cfg", "toy");
    }
    if (count > 3 && !strcmp(words[2], "pip")) {
        while (getenv("TOY_PIP_WAITS")) { /* for a file of this name */
            FILE *gate = fopen(getenv("TOY_PIP_WAITS"), "r");
            if (gate) { fclose(gate); break; }
            Sleep(50);
        }
        if (getenv("TOY_PIP_FAILS")) { puts("ERROR: no such version"); return 1; }
        strcpy(path, self);
        strcpy(strrchr(path, '\\') + 1, "vision-server.exe");
        CopyFileA(self, path, 0);
    }
    return 0;
}
"""


class Checkout:
    """The top of a checkout in a folder whose name cmd could take apart; `run` and `start` call the batch file."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.toy = folder / "a check (o&ut)", folder / "toy"
        self.folder.mkdir()
        self._environment = {**environment, "TOY": native(self.toy), "PYTHON": native(self.toy / "python.exe")}
        for name in ("vision-server.bat", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.folder)

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        command = [*([WINE] if WINE else []), "cmd", "/c", "vision-server.bat", *words]
        return subprocess.Popen(
            command, cwd=self.folder, env=self._environment | more, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *words: str, **more: str) -> tuple[int, list[str], list[str]]:
        return ended(self.start(*words, **more))

    @property
    def installs(self) -> list[str]:
        calls = (self.toy / "calls").read_text().splitlines() if (self.toy / "calls").exists() else []
        return [call.removesuffix("|").rpartition("|")[2] for call in calls if call.startswith("-m|pip|install|")]


def native(path: Path) -> str:
    return "Z:" + str(path).replace("/", "\\") if WINE else str(path)


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str], list[str]]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out.splitlines(), err.splitlines()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("wine")
    found = {**os.environ, "WINEPREFIX": str(folder), "WINEDEBUG": "-all", "DISPLAY": ""}
    if WINE:
        subprocess.run([WINE, "cmd", "/c", "exit"], env=found, check=True, timeout=280, capture_output=True)
    yield found
    if WINE and WINESERVER:
        subprocess.run([WINESERVER, "-k"], env=found, timeout=60, check=False)
        subprocess.run([WINESERVER, "-w"], env=found, timeout=60, check=True)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "toy.c").write_text(TOY)
    assert COMPILER is not None
    subprocess.run([COMPILER, "-o", folder / "python.exe", folder / "toy.c"], check=True, timeout=120)
    return folder / "python.exe"


@pytest.fixture
def checkout(environment: dict[str, str], toy: Path, tmp_path: Path) -> Checkout:
    (tmp_path / "toy").mkdir()
    shutil.copy(toy, tmp_path / "toy" / "python.exe")
    return Checkout(tmp_path, environment)


def until(happened: Callable[[], object]) -> None:
    end_s = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_the_first_run_installs_and_later_ones_only_start(checkout: Checkout) -> None:
    code, out, err = checkout.run("demo", "with space")
    assert (code, out) == (7, ["daemon demo|with space|"])
    assert len(err) == 1
    assert "installing into .venv" in err[0]
    assert checkout.run("--port", "0") == (7, ["daemon --port|0|"], [])
    assert checkout.installs == ["."]


def test_of_two_first_runs_one_installs_and_the_other_waits(checkout: Checkout) -> None:
    gate = checkout.toy / "gate"
    first = checkout.start("one", TOY_PIP_WAITS=native(gate))
    until(lambda: checkout.installs)
    second = checkout.start("two", TOY_PIP_WAITS=native(gate))
    assert second.stderr is not None
    assert "waiting for the install" in second.stderr.readline()
    gate.touch()
    assert [ended(process)[:2] for process in (first, second)] == [(7, ["daemon one|"]), (7, ["daemon two|"])]
    assert checkout.installs == ["."]


def test_a_failed_install_is_one_line_and_is_done_again(checkout: Checkout) -> None:
    code, out, err = checkout.run("demo", TOY_PIP_FAILS="1")
    assert (code, out) == (1, [])
    assert err[1].startswith("vision-server: the install failed: ERROR: no such version (log: ")
    assert checkout.run("demo")[:2] == (7, ["daemon demo|"])


def test_a_venv_that_was_never_finished_is_made_anew(checkout: Checkout) -> None:
    checkout.run("demo")
    venv = checkout.folder / ".venv"
    (venv / ".making").touch()
    (venv / "Lib").mkdir()
    (venv / "Lib" / "old").touch()
    code, _, err = checkout.run("demo")
    assert (code, len(err)) == (7, 2)
    assert "making .venv anew" in err[0]
    assert not (venv / "Lib").exists()
    assert checkout.installs == [".", "."]
    shutil.rmtree(venv)
    venv.touch()
    assert checkout.run("demo")[0] == 1
