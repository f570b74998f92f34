"""One worker process: started, spoken to, listened to, and ended with everything it started. POSIX and Windows.

It decides nothing. It reports frames, log lines and the end to its `Listener`; each worker has its own `Child` object,
so nothing that a dead one left behind can be taken for the next one's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import psutil

from .protocol import Decoder, Frame, ProtocolError, encode

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_MAX_LINE_BYTES = 16_384  # a native library that writes without newlines must not fill our memory
# glibc gives large blocks back to the system and asks for them again, zeroed page by page: on the CPU some hundred
# thousand page faults a picture. A worker keeps what it needs again; its end gives back everything. Others ignore it.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(8 << 30), "MALLOC_TRIM_THRESHOLD_": str(8 << 30)}
# In the environment of a worker and of all that it starts: a process that has left its session is known by it.
_MARK = "VISION_WORKER_TREE"
_MARKED_ROUNDS = 5  # one may have started another while it was looked for
_PIPE_BYTES = 1 << 20  # the most that Linux gives everybody
_PIPE_GRACE_S = 1.0  # a process that outlived its parent and its group may hold the pipes; nobody waits for it
# Where this package lies: `-m` looks for modules in the working directory first, and the worker must be our own code.
_HOME = Path(__file__).resolve().parents[2]

if sys.platform == "win32":
    _FLAGS = subprocess.CREATE_NEW_PROCESS_GROUP
    _OUTSIDE_SIGNALS = frozenset[int]()  # TerminateProcess leaves only an exit code, which does not tell who did it
else:
    _FLAGS = 0
    import fcntl

    _OUTSIDE_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


@dataclass(frozen=True)
class Exit:
    """How a worker ended. `from_outside`: by somebody else's signal, neither by `kill_tree` nor by its own fault."""

    returncode: int
    from_outside: bool

    @property
    def kind(self) -> str:
        """One of few words: the name of the signal that ended it, or "exit" whatever the code was."""
        if self.returncode < 0:
            with contextlib.suppress(ValueError):
                return signal.Signals(-self.returncode).name
        return "exit"

    def __str__(self) -> str:
        return f"exit code {self.returncode}" if self.kind == "exit" else f"signal {self.kind}"


class Listener(Protocol):
    """Who a worker's life is reported to, from the event loop: `on_start` first, `on_end` last, each exactly once."""

    def on_start(self, child: Child) -> None: ...

    def on_frame(self, child: Child, frame: Frame) -> None: ...

    def on_garbage(self, child: Child, error: ProtocolError) -> None: ...

    def on_line(self, child: Child, line: str) -> None: ...

    def on_end(self, child: Child, end: Exit) -> None: ...


class Child(asyncio.SubprocessProtocol):
    """A worker process. Made by `spawn`; over when its listener's `on_end` was called.

    `listener` may be replaced by another one, which hears what comes from then on.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._decoder: Decoder | None = Decoder()  # None once the stream is of no use
        self._line = bytearray()
        self._killed = False
        self._input: asyncio.WriteTransport | None = None
        self._last_call: asyncio.TimerHandle | None = None
        self.mark = uuid.uuid4().hex
        self.pid = 0

    async def open_input(self) -> int:
        """What the process is to have as its standard input: the end of a pipe, to be closed here once it has it.

        Ours, since asyncio's own holds less than a picture, and each time it is full costs a change of process.
        """
        if sys.platform == "win32":
            return subprocess.PIPE
        theirs, ours = os.pipe()
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # more than this user may have in all
                fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        loop = asyncio.get_running_loop()
        self._input, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(ours, "wb", buffering=0))
        return theirs

    def close_input(self) -> None:
        """What was not written yet is lost."""
        if self._input is not None and not self._input.is_closing():
            self._input.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self.pid = self._transport.get_pid() or 0
        self.listener.on_start(self)

    def send(self, frame: Frame) -> None:
        """Write a frame. To a worker that is gone already it goes nowhere; its end is reported anyway."""
        stdin = self._input or cast("asyncio.WriteTransport | None", self._transport.get_pipe_transport(_STDIN))
        if stdin is not None and not stdin.is_closing():
            stdin.write(encode(frame))

    def kill_tree(self) -> None:
        """End the process and all it started, at once. Returns before they are gone; `on_end` tells."""
        self._killed = True
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(self.pid).children(recursive=True)
        if sys.platform == "win32":
            with contextlib.suppress(ProcessLookupError):
                self._transport.kill()
        self._kill_group()
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def is_stopped(self) -> bool:
        """Whether somebody has suspended the process (SIGSTOP), so that its silence is not its own fault."""
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        return False

    def rss_bytes(self) -> int | None:
        """Main memory the process holds; None when it is gone."""
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.pid).memory_info().rss
        return None

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == _STDERR:
            self._take_lines(data)
        elif self._decoder is not None:
            try:
                for frame in self._decoder.feed(data):
                    self.listener.on_frame(self, frame)
            except ProtocolError as error:
                self._decoder = None
                self.listener.on_garbage(self, error)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == _STDERR and self._line:
            self._report_line(self._line)

    def process_exited(self) -> None:
        self._kill_group()
        self._kill_marked()
        self._last_call = asyncio.get_running_loop().call_later(_PIPE_GRACE_S, self._close_pipes)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called once the process is reaped and its pipes are read to their end."""
        code = self._transport.get_returncode()
        returncode = -1 if code is None else code
        if self._last_call is not None:
            self._last_call.cancel()
        self._transport.close()
        self.close_input()
        self.listener.on_end(self, Exit(returncode, not self._killed and -returncode in _OUTSIDE_SIGNALS))

    def _take_lines(self, data: bytes) -> None:
        *lines, rest = (bytes(self._line) + data).split(b"\n")
        for line in lines:
            self._report_line(line)
        self._line = bytearray(rest)
        if len(self._line) > _MAX_LINE_BYTES:
            self._report_line(self._line)
            self._line.clear()

    def _report_line(self, line: bytes | bytearray) -> None:
        if text := line.decode("utf-8", "replace").rstrip():
            self.listener.on_line(self, text)

    def _kill_group(self) -> None:
        # The worker leads its own group, so this reaches it and never us. The transport's `kill` would look first
        # whether it is gone, and take its exit code away.
        if sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _kill_marked(self) -> None:
        """What has left the group and lost its parent, so that no kinship leads to it. Linux only."""
        if sys.platform != "linux":
            return
        for _ in range(_MARKED_ROUNDS):
            if not (marked := _processes_with(self.mark)):
                return
            for pid in marked:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def _close_pipes(self) -> None:
        self.close_input()
        for fd in (_STDIN, _STDOUT, _STDERR):
            if (pipe := self._transport.get_pipe_transport(fd)) is not None:
                pipe.close()


def _processes_with(mark: str) -> list[int]:
    """The processes that were started with `mark` in their environment; those that cannot be looked at are others'."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(process.name)
            if mark.encode() in (process / "environ").read_bytes():
                found.append(pid)
    return found


async def spawn(command: Sequence[str], listener: Listener) -> Child:
    """Start a worker. Raises OSError when the command cannot be run.

    It gets a session (on Windows a process group) of its own: Ctrl-C in the daemon's terminal is the daemon's business.
    """
    child = Child(listener)
    stdin = await child.open_input()
    try:
        await asyncio.get_running_loop().subprocess_exec(
            lambda: child,
            *command,
            stdin=stdin,
            cwd=_HOME,
            env=KEEP_MEMORY | os.environ | {_MARK: child.mark},
            start_new_session=sys.platform != "win32",
            creationflags=_FLAGS,
        )
    except BaseException:
        child.close_input()
        raise
    finally:
        if stdin != subprocess.PIPE:
            os.close(stdin)
    return child
