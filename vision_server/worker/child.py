"""The worker process: `python -m vision_server.worker.child`. Holds the model, answers the daemon, ends with it.

It may be started before its model is known. So what needs no model is done at once, beside waiting for the Hello that
names one: torch and the engine are imported, which opens no device, and the codecs of pictures registered.

Four threads. One reads frames, so that Cancel, Stop and end-of-file are seen whatever the others do; one imports, and
is gone when that is done; one decodes pictures; the main one steps the model and is the only one that writes. Standard
output belongs to no library: the pipe to the daemon is moved away from it first, and what is printed goes to standard
error, which the daemon logs.

It has no listening port, no settings of its own (Hello brings them) and no state worth saving: it may end any time.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from .. import log as logs
from ..errors import LoadFailed, VisionError
from . import ahead
from .equipping import equip
from .imports import Imports
from .protocol import (
    LOAD,
    Cancel,
    Decoder,
    Expect,
    Failed,
    Frame,
    Hello,
    Progress,
    ProtocolError,
    Run,
    Stop,
    encode,
)
from .resources import usable_cores
from .stepper import Inbox, Prepared, Stepper

log = logging.getLogger(__name__)

_READ_BYTES = 1 << 20
_REPORT_EVERY_S = 0.05
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Report = Callable[[str, int, int], None]


class Pipe:
    """The two ends that lead to the daemon, taken out of reach of everything that prints."""

    def __init__(self) -> None:
        self._in, self._out = os.dup(0), os.dup(1)
        if sys.platform == "win32":
            import msvcrt

            for fd in (self._in, self._out):
                msvcrt.setmode(fd, os.O_BINARY)
        os.dup2(2, 1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)

    def read(self) -> bytes:
        """What has come; empty when the daemon is gone."""
        try:
            return os.read(self._in, _READ_BYTES)
        except OSError:
            return b""

    def say(self, frame: Frame) -> None:
        """Write a frame, whole. Without a daemon there is nothing left to do, so the process ends."""
        data = memoryview(encode(frame))
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except OSError:
            os._exit(1)


class Mailbox:
    """Sorts what comes: the reader thread puts, the others wait at the queue that is theirs."""

    def __init__(self) -> None:
        self.hello: queue.SimpleQueue[Hello] = queue.SimpleQueue()
        self.expected: Path | None = None
        self.runs: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self.inbox: Inbox = queue.SimpleQueue()

    def put(self, frame: Frame) -> None:
        if isinstance(frame, Hello):
            self.hello.put(frame)
        elif isinstance(frame, Expect):
            self.expected = Path(frame.directory)
        elif isinstance(frame, Run):
            self.inbox.put(frame)
            self.runs.put(frame)
        elif isinstance(frame, Cancel):
            self.inbox.put(frame)

    def likely(self) -> Path | None:
        """Where the model lies that may be asked for; None once it is known, or when nobody has said."""
        return self.expected if self.hello.empty() else None

    def read(self, pipe: Pipe) -> None:
        """The reader thread. The end of the stream is the end of the daemon, and there is nothing to do without it."""
        decoder = Decoder()
        while data := pipe.read():
            try:
                for frame in decoder.feed(data):
                    if isinstance(frame, Stop):
                        os._exit(0)
                    self.put(frame)
            except ProtocolError:
                log.exception("the daemon does not speak the protocol")
                os._exit(1)
        os._exit(0)

    def decode(self, prepare: Callable[[Run], Prepared | Failed]) -> None:
        """The decoder thread: one picture after the other, while the model steps."""
        while True:
            self.inbox.put(prepare(self.runs.get()))


def main() -> None:
    """Serve until the daemon says Stop or is gone."""
    gc.disable()  # looking through torch's modules for garbage, again and again, takes a fifth of their import
    pipe, mailbox = Pipe(), Mailbox()
    faulthandler.enable()
    logs.setup(form="json")
    threading.Thread(target=mailbox.read, args=(pipe,), name="reader", daemon=True).start()
    imports = Imports(mailbox.likely)
    _end_with_daemon()
    hello = mailbox.hello.get()
    logs.setup(hello.log_level, "json")
    try:
        stepper = _load(hello, mailbox.inbox, pipe.say, imports)
    except VisionError as error:
        _end(pipe, Failed(LOAD, error.code, str(error)))
    except Exception:
        log.exception("the model could not be loaded")
        _end(pipe, Failed(LOAD, LoadFailed.code, "The model could not be loaded; the server's log has the details."))
    gc.freeze()  # what is here now stays
    gc.enable()
    threading.Thread(target=mailbox.decode, args=(stepper.prepare,), name="decoder", daemon=True).start()
    pipe.say(stepper.ready)
    try:
        while True:
            stepper.turn()
    except Exception:
        # Whatever this was (an error of CUDA poisons the whole process), a new worker is the way out of it.
        log.exception("the worker gives up")
    _end(pipe)


def _end_with_daemon() -> None:
    """Have Linux end this process when the daemon's is gone: one that is suspended, or caught in a driver, cannot see
    the end of its input."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(pipe: Pipe, last_words: Failed | None = None) -> NoReturn:
    """Leave at once: an orderly exit of the interpreter waits for threads and for libraries that may be broken."""
    if last_words is not None:
        pipe.say(last_words)
    logging.shutdown()
    os._exit(1)


def _load(hello: Hello, inbox: Inbox, say: Callable[[Frame], None], imports: Imports) -> Stepper:
    say(Progress("import"))
    heap = ahead.begin(Path(hello.directory), hello.device, hello.dtype) if hello.directory else None
    imports.wait()
    directory = _files(hello, _reporter(say))
    if hello.directory is None:
        heap = ahead.begin(directory, hello.device, hello.dtype)
    import torch

    from ..engine import Florence

    threads = hello.threads or usable_cores()
    torch.set_num_threads(threads)
    if heap is not None:
        heap.finish(threads)
    engine = Florence.load(
        directory,
        hello.device,
        hello.dtype,
        _reporter(say),
        hello.adapter,
        hello.feature_cache_bytes,
        parts=imports.parts,
    )
    return equip(
        engine,
        hello.model,
        inbox,
        say,
        max_batch=hello.max_batch,
        max_pixels=hello.max_pixels,
        feature_cache_bytes=hello.feature_cache_bytes,
    )


def _files(hello: Hello, report: Report) -> Path:
    """Where the checkpoint lies, downloaded first where that is needed."""
    if hello.directory is not None:
        return Path(hello.directory)
    from .. import hub

    assert hello.repository is not None, "a Hello names one of the two"
    source = hub.Source(
        hello.repository,
        hello.revision,
        token=hello.token,
        cache=Path(hello.cache) if hello.cache else None,
        offline=hello.offline,
        endpoint=hello.endpoint,
        stall_timeout_s=hello.stall_timeout_s,
    )
    return hub.fetch(source, report)


def _reporter(say: Callable[[Frame], None]) -> Report:
    """What the engine's loading calls; the daemon hears of it some twenty times a second at most."""
    last_s = 0.0

    def report(phase: str, done: int, total: int) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if done >= total or now_s - last_s >= _REPORT_EVERY_S:
            last_s = now_s
            say(Progress(phase, done, total))

    return report


if __name__ == "__main__":
    main()
