"""vision-server.sh for real, in a copy of the checkout's top, with a toy in place of Python and pip.

The toy records how it is called and "installs" a toy daemon, so that what the launcher decides (install or not, which
set, which words on failure, who gets the signal) shows without a download. .ci/run does the real install.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.toy_checkout import Checkout

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="vision-server.sh is for POSIX systems"),
    pytest.mark.timeout(60),  # a launcher that waits for what never comes
]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def gate(checkout: Checkout) -> Iterator[int]:
    """Descriptor of what a waiting toy reads; opened for both ends so that neither side blocks on opening it."""
    descriptor = os.open(checkout.toy / "gate", os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def first_lines(stream: IO[str] | None, holding: str) -> str:
    """Reads up to the first line that holds `holding`; the test's own timeout ends a line that never comes."""
    assert stream is not None
    for line in stream:
        if holding in line:
            return line
    raise AssertionError(f"the output ended without {holding!r}")


INSTALL = "-m pip install --disable-pip-version-check --no-input -q -c constraints.txt -e "


def test_the_first_run_makes_venv_installs_and_becomes_the_daemon(checkout: Checkout) -> None:
    code, out, err = checkout.run("demo", "--with space", "", "*")
    assert code == 0
    assert out.splitlines()[1:] == ["demo", "--with space", "", "*"]
    assert checkout.calls("-m venv") == [f"-m venv {checkout.venv}"]
    assert checkout.calls("pip install") == [INSTALL + "."]
    assert "noise of pip" not in err
    assert (checkout.venv / "install.log").read_text() == "noise of pip\n"
    assert len(err.splitlines()) == 1
    assert "installing" in err


def test_pip_runs_in_the_checkout_wherever_the_launcher_is_called_from(checkout: Checkout, tmp_path: Path) -> None:
    checkout.run("demo", cwd=tmp_path)
    install = next(line for line in (checkout.toy / "calls").read_text().splitlines() if "pip install" in line)
    assert install.split("|")[1] == str(checkout.root)


def test_a_second_run_installs_nothing_and_says_nothing(checkout: Checkout) -> None:
    checkout.run("demo")
    checkout.forget()
    code, out, err = checkout.run("--port", "0")
    assert (code, err) == (0, "")
    assert out.splitlines()[1:] == ["--port", "0"]
    assert checkout.calls("venv") == checkout.calls("pip install") == []


def test_no_arguments_serve(checkout: Checkout) -> None:
    code, out, _ = checkout.run()
    assert (code, len(out.splitlines())) == (0, 1)


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_installs_again_once(checkout: Checkout, name: str) -> None:
    checkout.run("demo")
    checkout.forget()
    with (checkout.root / name).open("a") as file:
        file.write("\n# changed\n")
    checkout.run("demo")
    checkout.run("demo")
    assert checkout.calls("pip install") == [INSTALL + "."]
    assert checkout.calls("-m venv") == []


def test_one_venv_serves_test_and_demo(checkout: Checkout) -> None:
    code, out, _ = checkout.run("test")
    assert code == 0
    assert out.splitlines()[-1] == "== 3 passed in 0.01s =="
    checkout.run("demo")
    checkout.run("test")
    assert checkout.calls("pip install") == [INSTALL + ".[test]"]


def test_the_test_extra_is_added_to_a_venv_that_served_a_demo(checkout: Checkout) -> None:
    for command in ("demo", "test", "demo", "test"):
        checkout.run(command)
    assert checkout.calls("pip install") == [INSTALL + ".", INSTALL + ".[test]"]
    assert len(checkout.calls("-m venv")) == 1


@pytest.mark.parametrize(
    ("commands", "installs"),
    [
        (["demo", "evaluate", "finetune", "demo"], [".", ".[train]"]),
        (["evaluate", "demo", "test", "evaluate"], [".[train]", ".[test]"]),
        (["test", "evaluate", "finetune", "bulk"], [".[test]"]),
        (["demo", "bulk", "evaluate", "bulk"], [".", ".[ray]", ".[train]"]),
    ],
    ids=["after a demo", "first", "after the tests", "with what many pictures need"],
)
def test_what_an_evaluation_needs_is_installed_when_it_is_asked_for(
    checkout: Checkout, commands: list[str], installs: list[str]
) -> None:
    for command in commands:
        code, out, _ = checkout.run(command)
        assert code == 0
        assert command == "test" or out.splitlines()[1:] == [command]
    assert checkout.calls("pip install") == [INSTALL + what for what in installs]


def test_test_runs_every_check_in_order_at_the_root(checkout: Checkout, tmp_path: Path) -> None:
    checkout.run("test", cwd=tmp_path)
    lines = [line.split("|") for line in (checkout.toy / "calls").read_text().splitlines()]
    checks = [(where, what) for _, where, what in lines if what.split()[1] in ("ruff", "mypy", "pytest")]
    wanted = ["-m ruff check .", "-m ruff format --check .", "-m mypy", "-m pytest"]
    assert checks == [(str(checkout.root), what) for what in wanted]


def test_test_with_arguments_runs_only_pytest_and_returns_its_status(checkout: Checkout) -> None:
    code, _, _ = checkout.run("test", "-k", "a or b", "tests/x.py", TOY_PYTEST_STATUS="5")
    assert code == 5
    assert checkout.calls("-m pytest") == ["-m pytest -k a or b tests/x.py"]
    assert checkout.calls("ruff") == checkout.calls("mypy") == []


def test_a_fault_that_ruff_finds_ends_the_run(checkout: Checkout) -> None:
    checkout.run("test")
    checkout.forget()
    code, _, err = checkout.run("test", TOY_RUFF_FAILS="1")
    assert (code, err) == (1, "vision-server: ruff check found faults\n")
    assert checkout.calls("pytest") == []


def test_the_launcher_becomes_the_daemon_so_signals_reach_it(checkout: Checkout, gate: int) -> None:
    process = checkout.start(TOY_STAYS="1")
    assert process.stdout is not None
    assert int(process.stdout.readline()) == process.pid
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (7, "stopped\n")


def test_it_is_found_through_symlinks(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "relative").symlink_to("../a check out/vision-server.sh")
    (tmp_path / "vision").symlink_to(tmp_path / "links" / "relative")
    code, out, _ = checkout.run("demo", cwd=tmp_path, script="./vision")
    assert (code, out.splitlines()[1:]) == (0, ["demo"])
    assert checkout.calls("-m venv") == [f"-m venv {checkout.venv}"]


def test_a_cdpath_does_not_lead_it_astray(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "decoy" / "a check out").mkdir(parents=True)
    script = f"{checkout.root.name}/vision-server.sh"
    code, _, _ = checkout.run("demo", cwd=tmp_path, script=script, CDPATH=str(tmp_path / "decoy"))
    assert code == 0
    assert not (tmp_path / "decoy" / "a check out" / ".venv").exists()


def test_python_names_the_interpreter(checkout: Checkout, tmp_path: Path) -> None:
    mine = tmp_path / "my python"
    mine.write_text((checkout.bin / "python3").read_text())
    mine.chmod(0o755)
    (checkout.bin / "python3").unlink()
    assert checkout.run("demo", PYTHON=str(mine))[0] == 0
    assert (checkout.venv / "bin" / "python").is_file()


NETWORK = (
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)': /simple/hatchling/\n"
    "ERROR: Could not find a version that satisfies the requirement hatchling (from versions: none)"
)
CONFLICT = "WARNING: noise\nERROR: Cannot install torch==2.13.0: conflicting dependencies\n[notice] new pip\n"


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"TOY_TOO_OLD": "1", "TOY_VERSION": "3.8.10"}, "Python 3.10 or newer is needed, and python3 is 3.8.10"),
        ({"PYTHON": "no-such-python"}, "PYTHON names 'no-such-python', which is not a command"),
        ({"PYTHON": "cat"}, "PYTHON names 'cat', which does not run as Python"),
        ({"TOY_NO_VENV": "1"}, "apt install python3-venv"),
        ({"TOY_VENV_FAILS": "1"}, "making .venv failed: Error: no room in the inn (log: "),
        ({"TOY_PIP_FAILS": NETWORK}, "the install failed: the package index cannot be reached"),
        ({"TOY_PIP_FAILS": "x\nERROR: [Errno 28] No space left on device\ny"}, "the install failed: the disk is full"),
        ({"TOY_PIP_FAILS": CONFLICT}, "the install failed: Cannot install torch==2.13.0: conflicting dependencies (lo"),
    ],
)
def test_a_failure_is_one_clear_line(checkout: Checkout, env: dict[str, str], said: str) -> None:
    checkout.env = env
    code, out, err = checkout.run("demo")
    lines = [line for line in err.splitlines() if "installing into" not in line]
    assert (code, out) == (1, "")
    assert len(lines) == 1
    assert lines[0].startswith("vision-server: ")
    assert said in lines[0]
    checkout.env = {}
    assert checkout.run("demo")[0] == 0, "the next run, with the cause gone, starts over and works"


def test_no_python_at_all(checkout: Checkout) -> None:
    (checkout.bin / "python3").unlink()
    code, _, err = checkout.run("demo")
    assert code == 1
    assert err == (
        "vision-server: no Python found; install Python 3.10 or newer, or name it: PYTHON=/path/to/python3\n"
    )


def test_a_place_that_cannot_hold_a_venv(checkout: Checkout) -> None:
    checkout.venv.write_text("a file")  # stands for a folder without permission, which root would not notice
    code, _, err = checkout.run("demo")
    assert (code, err) == (1, f"vision-server: cannot write to {checkout.root}\n")


def test_a_failed_test_install_leaves_the_demo_usable(checkout: Checkout) -> None:
    checkout.run("demo")
    assert checkout.run("test", TOY_PIP_FAILS=NETWORK)[0] == 1
    checkout.forget()
    assert checkout.run("demo", TOY_PIP_FAILS=NETWORK)[0] == 0
    assert checkout.calls("pip install") == []


def test_an_install_that_was_cut_short_is_done_again(checkout: Checkout, gate: int) -> None:
    process = checkout.start("demo", TOY_PIP_WAITS="1")
    pip = int((checkout.toy / "waiting").read_text())  # returns once pip is there
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not (checkout.venv / ".lock").is_symlink()
    assert not running(pip)
    checkout.forget()
    assert checkout.run("demo")[0] == 0
    assert checkout.calls("pip install") == [INSTALL + "."]


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_second_launcher_waits_for_the_first_and_installs_nothing(checkout: Checkout, gate: int) -> None:
    first = checkout.start("demo", TOY_PIP_WAITS="1")
    (checkout.toy / "waiting").read_text()
    second = checkout.start("demo", TOY_PIP_WAITS="1")
    assert f"process {first.pid}" in first_lines(second.stderr, "waiting")
    os.write(gate, b"go\n")
    for process in (first, second):
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert checkout.calls("pip install") == [INSTALL + "."]


def test_the_lock_of_a_dead_launcher_is_taken_over(checkout: Checkout) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    checkout.venv.mkdir()
    (checkout.venv / ".lock").symlink_to(str(dead.pid))
    assert checkout.run("demo")[0] == 0
    assert not (checkout.venv / ".lock").is_symlink()


def test_a_venv_whose_python_vanished_is_made_anew(checkout: Checkout) -> None:
    checkout.run("demo")
    checkout.forget()
    left_over = checkout.venv / "left over"
    left_over.touch()
    (checkout.venv / "bin" / "python").unlink()
    (checkout.venv / "bin" / "python").symlink_to("/nowhere/python3")
    code, _, err = checkout.run("demo")
    assert code == 0
    assert "making .venv anew" in err
    assert not left_over.exists()
    assert checkout.calls("pip install") == [INSTALL + "."]


def test_a_venv_that_was_never_finished_is_made_anew(checkout: Checkout) -> None:
    checkout.run("demo", TOY_VENV_FAILS="1")
    (checkout.venv / "bin").mkdir()
    shutil.copy(checkout.bin / "python3", checkout.venv / "bin" / "python")
    checkout.forget()
    assert checkout.run("demo")[0] == 0
    assert len(checkout.calls("-m venv")) == 1


def test_a_moved_checkout_installs_again(checkout: Checkout) -> None:
    checkout.run("demo")
    checkout.forget()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved away"))
    assert checkout.run("demo")[0] == 0
    assert checkout.calls("pip install") == [INSTALL + "."]


def test_a_venv_made_by_hand_is_kept(checkout: Checkout) -> None:
    (checkout.venv / "bin").mkdir(parents=True)
    (checkout.venv / "pyvenv.cfg").touch()
    shutil.copy(checkout.bin / "python3", checkout.venv / "bin" / "python")
    assert checkout.run("demo")[0] == 0
    assert checkout.calls("-m venv") == []
    assert checkout.calls("pip install") == [INSTALL + "."]
