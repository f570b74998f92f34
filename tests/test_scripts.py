"""The scripts as text: syntax, shellcheck, line endings, and the batch file's structure, which cannot run here."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHELL_SCRIPTS = [ROOT / "vision-server.sh", ROOT / ".ci" / "run", *sorted((ROOT / "clients").glob("*.sh"))]
WINDOWS_SCRIPTS = [ROOT / "vision-server.bat", *sorted((ROOT / "clients").glob("*.ps1"))]
BATCH = (ROOT / "vision-server.bat").read_text(encoding="ascii")


def name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=name)
def test_shell_scripts_parse_and_can_be_executed(script: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not on this machine")
    result = subprocess.run([bash, "-n", script], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert script.read_bytes().startswith(b"#!/usr/bin/env bash\n")
    assert b"\r" not in script.read_bytes()
    assert script.stat().st_mode & 0o100


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not on this machine; CI installs it")
    result = subprocess.run([shellcheck, "--severity=style", script], capture_output=True, text=True)
    assert result.stdout == ""
    assert result.returncode == 0


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=name)
def test_shell_scripts_use_nothing_newer_than_bash_3_2(script: Path) -> None:
    newer = r"\bmapfile\b|\breadarray\b|declare -A|local -n|\$\{[A-Za-z_]+(,,|\^\^|@)|&>>|\|&|\bcoproc\b|wait -n"
    code = [line for line in script.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    assert [line for line in code if re.search(newer, line)] == []


@pytest.mark.parametrize("script", WINDOWS_SCRIPTS, ids=name)
def test_windows_scripts_are_ascii_with_crlf(script: Path) -> None:
    """cmd misses labels in LF files; Windows PowerShell 5.1 reads a file without BOM in the system's code page."""
    content = script.read_bytes()
    assert content.isascii()
    assert content.count(b"\n") == content.count(b"\r\n") > 10


@pytest.mark.parametrize("pattern", ["*.bat", "*.ps1"])
def test_git_keeps_those_line_endings(pattern: str) -> None:
    assert f"{pattern} text eol=crlf\n" in (ROOT / ".gitattributes").read_text(encoding="ascii")


def batch_code() -> list[str]:
    return [line.strip() for line in BATCH.splitlines() if line.strip() and not line.strip().startswith("rem ")]


def test_every_batch_label_is_used_and_every_jump_lands() -> None:
    labels = [line[1:] for line in batch_code() if line.startswith(":")]
    jumps = {jump for line in batch_code() for jump in re.findall(r"\bgoto (\w+)|\bcall :(\w+)", line)}
    targets = {a or b for a, b in jumps}
    assert len(labels) == len(set(labels))
    assert targets <= set(labels)
    fallen_into = {"check_stamp", "start", "pytest", "searched", "ensure", "create_venv", "install"}
    assert set(labels) - targets <= fallen_into


def test_batch_subroutines_return_and_the_main_line_does_not_fall_into_them() -> None:
    lines = batch_code()
    called = {sub for line in lines for sub in re.findall(r"\bcall :(\w+)", line)}
    starts = [index for index, line in enumerate(lines) if line.startswith(":")]
    for start in starts:
        before = lines[start - 1]
        if lines[start][1:] in called:
            assert before.startswith(("exit /b", "goto ")), f"{lines[start]} is entered from above"
    assert lines[-1].startswith("exit /b")


def test_every_batch_failure_says_one_line_and_ends_with_1() -> None:
    lines = batch_code()
    failures = [i for i, line in enumerate(lines) if line.startswith(">&2 echo vision-server: ")]
    assert len(failures) >= 8
    progress = ("installing into", "making .venv anew", "waiting for the install")
    for i in failures:
        if not any(words in lines[i] for words in progress):
            assert lines[i + 1] == "exit /b 1", lines[i]


def test_batch_and_shell_launcher_do_the_same() -> None:
    shell = (ROOT / "vision-server.sh").read_text(encoding="utf-8")
    pip = re.compile(r"-m pip install (.*?) -e")
    assert pip.findall(shell) == pip.findall(BATCH) != []
    for step in ("-m ruff check .", "-m ruff format --check .", "-m mypy", "-m pytest", "-m venv", ".[test]"):
        assert step in shell, step
        assert step in BATCH, step
    for said in (
        "no Python found",
        "Python 3.10 or newer is needed",
        "has no venv module",
        "the package index cannot be reached; check the network or the proxy",
        "the disk is full",
        "installing into .venv; the first time takes minutes",
        "ruff check found faults",
        "mypy found faults",
    ):
        assert said in shell.replace("${oldest/, /.}", "3.10"), said
        assert said in BATCH, said


def test_batch_touches_venv_only_where_it_has_the_lock() -> None:
    """A file that is open for writing; run under Wine: two first starts install once, and one whose first is killed
    goes on. What runs then, the daemon, must not be started inside: it would keep the file open."""
    lines = batch_code()
    assert lines.count('call :locked >"%LOCK%"') == lines.count('call :note_lock >"%LOCK%"') == 1
    inside = lines.index(":locked")
    start = lines.index(":start")
    assert inside < lines.index(":install") < start
    assert lines[inside + 1] == 'set "LOCKED=1"'
    assert lines[start - 1] == "exit /b 0"
    outside = [*lines[:inside], *lines[start : lines.index(":make_venv")]]
    changing = ("pip install", "-m venv", "rmdir", "del ", "copy ", "%KEY%", "%LOG%", ".making", ".stamp")
    assert [line for line in outside if any(word in line for word in changing) and not line.startswith("set ")] == []
    assert [line for line in lines[inside:start] + lines[lines.index(":make_venv") :] if "%*" in line] == [
        '%* -c "import sys; sys.exit(0 if sys.version_info[:2] >= (3, 10) else 3)" >nul 2>nul',
        'if "%CODE%"=="0" set BASE=%*',
    ]


def test_batch_keeps_paths_out_of_parentheses() -> None:
    """In a parenthesised block cmd expands every %VAR% at once, and a bracket in a path ends the block."""
    for line in batch_code():
        assert not line.endswith("("), line
        assert not line.startswith(")"), line
