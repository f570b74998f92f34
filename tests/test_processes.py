"""That a module whose tests leave a process behind fails, whoever its parent is; and how tests react to signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
SLEEPER = "[sys.executable, '-c', 'import time; time.sleep(100)']"
CHILD = f"subprocess.Popen({SLEEPER}, stdout=subprocess.DEVNULL).pid"
ORPHAN = f"""int(subprocess.check_output([sys.executable, "-c", "import subprocess, sys\\n"
        "print({CHILD})"]))"""
MODULE = """
import subprocess, sys
from pathlib import Path

from tests import processes
from tests.processes import no_process_outlives_its_module

processes.mark()

def test_one() -> None:
    Path({told!r}).write_text(str({start}))
"""


def run(folder: Path, start: str) -> tuple[int, str]:
    """A run of pytest over a module with one test, which does this; how it ended and what it said."""
    module = folder / "test_module.py"
    module.write_text(MODULE.format(told=str(folder / "told"), start=start))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", str(folder), str(module)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="an orphan is known by its environment")
def test_an_orphan_is_found(tmp_path: Path) -> None:
    assert_found(tmp_path, ORPHAN)


def test_a_child_is_found(tmp_path: Path) -> None:
    assert_found(tmp_path, CHILD)


def assert_found(folder: Path, start: str) -> None:
    code, said = run(folder, start)
    assert code == 1, said
    assert "1 passed, 1 error" in said
    assert "left behind by the tests of this module" in said
    assert "time.sleep(100)" in said
    pid = int((folder / "told").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_one_that_ends_is_no_reason_to_fail(tmp_path: Path) -> None:
    code, said = run(tmp_path, CHILD.replace("100", "1"))
    assert (code, "1 passed" in said) == (0, True), said


@pytest.mark.skipif(sys.platform == "win32", reason="there are no ignored signals to inherit")
def test_what_is_started_reacts_to_signals_even_where_the_tests_run_in_a_background() -> None:
    """And the tests themselves go on when their terminal is closed."""
    look = "import signal; print(*(signal.getsignal(one) is signal.SIG_IGN for one in (signal.SIGINT, signal.SIGHUP)))"
    code = (
        "import os, signal, subprocess, sys\n"
        "from tests import processes\n"
        "processes.react_to_signals()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        f"subprocess.run([sys.executable, '-c', {look!r}])\n"
    )
    before = [signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGHUP)]
    try:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    finally:
        for one, handler in zip((signal.SIGINT, signal.SIGHUP), before, strict=True):
            signal.signal(one, handler)
    assert done.stdout == "False False\n"
