"""Processes that tests start: each ends with the module it was started in. Not a test.

A process is known by its parents and, should those be gone, by a mark that it has inherited in its environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import psutil
import pytest

_MARK = "TESTS_RUN_BY"
_TIME_TO_END_S = 10.0  # for the worker of a daemon that was killed, which has to notice
# multiprocessing starts this one for shared memory and locks; it lives as long as the process that uses them.
_OF_THE_LIBRARY = "multiprocessing.resource_tracker"


def mark() -> None:
    """Have every process that is started from now on be known as one of this run's tests."""
    os.environ[_MARK] = str(os.getpid())


def started() -> set[psutil.Process]:
    """The living processes that this one has started, and those that they have."""
    found = set(psutil.Process().children(recursive=True))
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(_MARK) == str(os.getpid()):
                found.add(process)
    return {process for process in found if _lives(process)}


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE and _OF_THE_LIBRARY not in " ".join(process.cmdline())
    return False


@pytest.fixture(scope="module", autouse=True)
def no_process_outlives_its_module() -> Iterator[None]:
    """Fails a module whose tests leave a process behind, which is ended then: the next ones count theirs."""
    before = started()
    yield
    _, late = psutil.wait_procs(started() - before, timeout=_TIME_TO_END_S)
    left = [f"{process.pid}: {_words(process)}" for process in late if _lives(process)]
    for process in late:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(late, timeout=_TIME_TO_END_S)
    assert not left, f"left behind by the tests of this module: {left}"


def _words(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return "?"


def react_to_signals() -> None:
    """A script's background ignores SIGINT, nohup ignores SIGHUP, and what they start inherits that.

    What the tests start is to react as at a terminal: an ignored signal stays ignored in a program that is started, a
    handled one does not. This process itself goes on under nohup.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)
