"""The life of the daemon: listen, serve, and leave in good order when told to.

The first SIGTERM or Ctrl-C stops admission, lets what is in flight finish within the grace, ends the worker and leaves
with 0; the second leaves at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

import psutil
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from . import __version__
from .api.app import create_app
from .api.keys import MODELS, QUEUE
from .settings import Settings, let_waiting_threads_sleep

log = logging.getLogger(__name__)

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LAST_ANSWERS_S = 2.0  # for responses that are being written when the queue is already empty


def main(settings: Settings, worker_command: Sequence[str] | None = None) -> int:
    """Serve until told to leave; returns the exit code. Raises BadSetting."""
    logging.getLogger("aiohttp.server").addFilter(_is_our_fault)
    _give_memory_back()
    let_waiting_threads_sleep()
    app = create_app(settings, worker_command)
    return asyncio.run(_serve(app, settings))


def _give_memory_back() -> None:
    """Have glibc return the memory of large pictures to the system once it is free, and keep some for usual ones.

    It would raise the size from which it does so to that of the largest block it has seen, and keep the rest. But what
    it returns comes back zeroed page by page, which for each copy of a picture takes longer than copying it.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no such switch, and no need of it
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_THRESHOLD, 4 << 20)
            mallopt(_M_TRIM_THRESHOLD, 8 << 20)


async def _serve(app: web.Application, settings: Settings) -> int:
    runner = web.AppRunner(
        app,
        handler_cancellation=True,  # a client that leaves gives its place in the queue back
        access_log=None,
        read_bufsize=1 << 20,  # a picture comes in a few pieces
        shutdown_timeout=_LAST_ANSWERS_S,
    )
    with _told_to_leave() as told:
        await runner.setup()
        try:
            try:
                site = web.TCPSite(runner, settings.host, settings.port)
                await site.start()
            except OSError as error:
                sys.stderr.write(f"vision-server: {_why_not(error, settings)}\n")
                return 1
            _announce(app, settings, site.port)
            await told.wait()
            log.info("leaving: nothing new is taken, what is in flight has %g s", settings.shutdown_grace_s)
            await app[QUEUE].drain()  # still listening, so that /ready can say so
        finally:
            await runner.cleanup()
        log.info("gone")
        return 0


def _announce(app: web.Application, settings: Settings, port: int) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    names = ", ".join(model.name for model in app[MODELS])
    log.info("vision-server %s listens on http://%s:%d, model %s", __version__, host, port, names)
    if not settings.loopback and settings.api_key is None:
        log.warning("no key is asked: whoever reaches this address can use the server")


@contextlib.contextmanager
def _told_to_leave() -> Iterator[asyncio.Event]:
    """An event that the first SIGTERM or Ctrl-C sets. A second one ends this process, and its worker, on the spot."""
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    seen: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        seen.append(number)
        if len(seen) > 1:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            os._exit(128 + number)
        loop.call_soon_threadsafe(told.set)

    # signal.signal and not the loop's add_signal_handler, which Windows lacks.
    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _why_not(error: OSError, settings: Settings) -> str:
    where = f"port {settings.port} on {settings.host}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is taken: stop what listens there, or choose another with --port."
    if error.errno == errno.EACCES:
        return f"{where} may not be used by this user: choose one above 1023 with --port."
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{settings.host} is no address of this machine: choose another with --host."
    return f"cannot listen on {where} ({type(error).__name__}, {error.errno})."


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Drops aiohttp's traceback for every request that is not HTTP; it has been answered with 400."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
