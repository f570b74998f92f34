"""`python -m tests.worker.faulty_child DIRECTORY`: the real worker, which meets faults at named moments. Not a test.

A file fault-N in the directory says PHASE HOW; the worker that comes to PHASE while no lower N is there takes it away.
A phase is importing (torch, half imported), loading (the weights have begun), decoding (a picture's codec is running),
generating (three token steps are done) or writing (half of an answer is in the pipe). HOW is

    wait      says that it is there, then does nothing more: what happens comes from outside, or nothing does
    garbage   writes what is no frame, then waits         half      writes half a frame and ends with 1
    exit0     ends with 0                                 cuda      torch raises what CUDA raises when it is broken
    oom       the memory of the device is full

Whoever takes a fault starts two processes of its own first, one in another session. `there` has its process id and
theirs. A file `crashing` has the size of pictures at which the codec crashes, `room` how many requests the device has
memory for. `two` appears when one worker begins while another is there.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
import sys
import time
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from PIL import ImageFile

from vision_server.errors import OutOfMemory
from vision_server.worker import child, equipping
from vision_server.worker.protocol import Done, Frame, Progress, encode
from vision_server.worker.stepper import Stepper

DIRECTORY = Path(sys.argv[1])
GARBAGE = b"Loading checkpoint shards: 100%\n" * 200
_OUT = os.dup(1)  # before the worker takes its pipe away from whoever prints
_IN_THE_MIDDLE = 3  # token steps


def meet(phase: str) -> None:
    """Meet the fault that waits here, if one does."""
    if how := _taken(phase):
        _start_a_family()
        _suffer(how)


def _taken(phase: str) -> str:
    first = min(DIRECTORY.glob("fault-*"), default=None)
    if first is None:
        return ""
    wanted, how = first.read_text().split()
    if wanted != phase:
        return ""
    first.unlink()
    return how


def _start_a_family() -> None:
    family = [subprocess.Popen(["sleep", "600"], start_new_session=stray).pid for stray in (False, True)]
    note = DIRECTORY / "there.new"
    note.write_text(" ".join(map(str, [os.getpid(), *family])))
    note.rename(DIRECTORY / "there")


def _suffer(how: str) -> None:
    if how == "oom":
        raise OutOfMemory("The device ran out of memory.")
    if how == "cuda":
        import torch

        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    if how == "exit0":
        os._exit(0)
    if how == "half":
        os.write(_OUT, encode(Progress("step"))[:9])
        os._exit(1)
    if how == "garbage":
        os.write(_OUT, GARBAGE)
    while True:
        time.sleep(60)


class Importing(MetaPathFinder):
    """Asked before every import."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "torch.nn":
            meet("importing")


class Probe:
    """Between the worker's loop and its engine."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._steps = 0
        self._tickets: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, *request: Any) -> int:
        ticket: int = self._engine.submit(*request)
        self._tickets.add(ticket)
        return ticket

    def cancel(self, ticket: int) -> None:
        self._tickets.discard(ticket)
        self._engine.cancel(ticket)

    def step(self) -> list[tuple[int, Any]]:
        room = DIRECTORY / "room"
        if room.exists() and len(self._tickets) > int(room.read_text()):
            raise OutOfMemory("The device ran out of memory.")
        finished: list[tuple[int, Any]] = self._engine.step()
        self._tickets -= {ticket for ticket, _ in finished}
        self._steps = self._steps + 1 if self._tickets and not finished else 0
        if self._steps >= _IN_THE_MIDDLE:
            meet("generating")
        return finished


class ProbedStepper(Stepper):
    def __init__(self, engine: Any, *rest: Any, **how: Any) -> None:
        super().__init__(Probe(engine), *rest, **how)


def _say(pipe: child.Pipe, frame: Frame, say: Any = child.Pipe.say) -> None:
    if isinstance(frame, Done) and (how := _taken("writing")):
        data = encode(frame)
        os.write(_OUT, data[: len(data) // 2])
        _start_a_family()
        _suffer(how)
    if isinstance(frame, Progress) and frame.phase == "weights":
        meet("loading")
    say(pipe, frame)


def _load_picture(picture: ImageFile.ImageFile, load: Any = ImageFile.ImageFile.load) -> Any:
    meet("decoding")
    crashing = DIRECTORY / "crashing"
    if crashing.exists() and crashing.read_text() == "{}x{}".format(*picture.size):
        ctypes.string_at(0)
    return load(picture)


_REPLACED: list[tuple[Any, str, Any]] = [
    (equipping, "Stepper", ProbedStepper),
    (child.Pipe, "say", _say),
    (ImageFile.ImageFile, "load", _load_picture),
]


def main() -> None:
    lock = os.open(DIRECTORY / "lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        (DIRECTORY / "two").touch()
    sys.meta_path.insert(0, Importing())
    for owner, name, ours in _REPLACED:
        setattr(owner, name, ours)
    child.main()


if __name__ == "__main__":
    main()
