"""The life of the daemon: listen, serve, and leave in good order when told to.

The first SIGTERM or Ctrl-C stops admission, after a notice if one is set, lets what is in flight finish within the
grace, ends the worker and leaves with 0; the second leaves at once. Both count in the background of a script, too,
where a shell has Ctrl-C ignored. A terminal that is closed (SIGHUP) begins to leave as well, but hurries nobody: it
often tells twice, and some send it after SIGTERM. Under nohup it is ignored, as whoever starts it so wants.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import faulthandler
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import FrameType

import psutil
from aiohttp import web
from aiohttp.typedefs import Handler

from . import __version__
from .api.app import create_app
from .api.keys import MODELS, QUEUE
from .api.wire import Runner
from .service_manager import VARIABLES, Manager, inherited, told
from .settings import Settings, let_waiting_threads_sleep, take_variables

log = logging.getLogger(__name__)

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP") if hasattr(signal, name)]
_HANGUP = getattr(signal, "SIGHUP", None)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_HEAD_TIMEOUTS_PER_BODY = 1.25
_MAX_OPEN_FILES = 65_536
_FILES_KEPT = 64
_LAST_ANSWERS_S = 2.0  # for answers that are being written, and those who are told that it is too late
_END_S = 15.0  # after the grace: these answers, and a worker that is slow to end


def main(settings: Settings, worker_command: Sequence[str] | None = None) -> int:
    """Serve until told to leave; returns the exit code. Raises BadSetting.

    A service manager that handed over sockets has chosen the address; it is told when this serves, and when it leaves.
    """
    _give_memory_back()
    let_waiting_threads_sleep()
    manager = told(take_variables(VARIABLES), os.getpid())
    sockets = inherited(manager.sockets)
    if sockets:
        settings = _at(sockets, settings)
    if manager.watchdog_s is not None:
        faulthandler.enable()  # SIGABRT is how a watchdog ends who stands still: the log says where that was
    app = create_app(settings, worker_command)
    return asyncio.run(_serve(app, settings, sockets, Manager(manager.notify, manager.watchdog_s)))


def _at(sockets: Sequence[socket.socket], settings: Settings) -> Settings:
    """The settings with the address of these sockets, one that others can reach if there is any: what is allowed
    there holds for all. Raises BadSetting where it must not be served."""
    at = [replace(settings, host=given.getsockname()[0], port=given.getsockname()[1]) for given in sockets]
    return next((one for one in at if not one.loopback), at[0])


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


def _allow_many_connections() -> int:
    """Raise the limit on open files, often 1,024, to what the system allows. How many of them connections may use:
    what the worker and its pipes, downloads and pictures by address need is kept from them."""
    most = _MAX_OPEN_FILES
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
        if soft != resource.RLIM_INFINITY and soft < most:
            with contextlib.suppress(OSError, ValueError):  # some systems have a lower limit than they say
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        now = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = most if now == resource.RLIM_INFINITY else min(now, most)
    return max(1, most - max(_FILES_KEPT, most // 8))


class _Handlers:
    """The requests that are being handled, from their headers on: of some the body is still coming."""

    def __init__(self) -> None:
        self.leaving = False  # each connection ends with its next answer: none is to be cut off between two requests
        self._running = 0
        self._none = asyncio.Event()

    @web.middleware
    async def count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._running += 1
        self._none.clear()
        try:
            response = await handler(request)
            if self.leaving:
                response.force_close()
            return response
        finally:
            self._running -= 1
            if not self._running:
                self._none.set()

    async def wait(self, seconds: float) -> None:
        """Until there is a moment without one, but not for longer than that."""
        if self._running:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._none.wait(), seconds)


async def _serve(app: web.Application, settings: Settings, sockets: Sequence[socket.socket], manager: Manager) -> int:
    handlers, loop = _Handlers(), asyncio.get_running_loop()
    app.middlewares.insert(0, handlers.count)
    runner = Runner(
        app,
        _allow_many_connections(),
        handler_cancellation=True,  # a client that leaves gives its place in the queue back
        access_log=None,
        read_bufsize=1 << 20,  # a picture comes in a few pieces
        shutdown_timeout=_LAST_ANSWERS_S,
        # From connecting, or the last answer, to the end of the next request's head: who sends it byte by byte is cut
        # off. A proxy that keeps its connections for a minute closes them before we do.
        keepalive_timeout=settings.body_timeout_s * _HEAD_TIMEOUTS_PER_BODY,
    )
    with _told_to_leave() as leave, contextlib.closing(manager):
        await runner.setup()
        try:
            try:
                port = await _listen(runner, settings, sockets)
            except OSError as error:
                sys.stderr.write(f"vision-server: {_why_not(error, settings)}\n")
                return 1
            _announce(app, settings, port)
            manager.ready(lambda: _summary(app))
            await leave.wait()
            manager.stopping(settings.leave_notice_s + settings.shutdown_grace_s + _END_S)
            handlers.leaving = True
            if settings.leave_notice_s:
                log.info("leaving in %g s: until then /ready says so, and all is served", settings.leave_notice_s)
                app[QUEUE].announce_leaving()
                await asyncio.sleep(settings.leave_notice_s)
            log.info("leaving: nothing new is taken, what is in flight has %g s", settings.shutdown_grace_s)
            give_up_s = loop.time() + settings.shutdown_grace_s
            await app[QUEUE].drain()  # still listening, so that /ready can say so
            await handlers.wait(max(_LAST_ANSWERS_S, give_up_s - loop.time()))  # aiohttp reads no more once it closes
        finally:
            await runner.cleanup()
        log.info("gone")
        return 0


async def _listen(runner: Runner, settings: Settings, sockets: Sequence[socket.socket]) -> int:
    """Serve on these sockets, or where there are none on an own one; the port. Raises OSError."""
    for given in sockets:
        await web.SockSite(runner, given).start()
    if sockets:
        return settings.port
    site = web.TCPSite(runner, settings.host, settings.port)
    await site.start()
    return site.port


def _summary(app: web.Application) -> str:
    """A line for `systemctl status`."""
    now = app[QUEUE].status()
    state = "leaving" if now.draining or now.leaving else now.state
    return f"{state}, model {now.model}, {now.queue_depth} waiting, {now.in_flight} in flight"


def _announce(app: web.Application, settings: Settings, port: int) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    names = ", ".join(model.name for model in app[MODELS])
    log.info("vision-server %s listens on http://%s:%d, model %s", __version__, host, port, names)
    if not settings.loopback and settings.api_key is None:
        log.warning("no key is asked: whoever reaches this address can use the server")


@contextlib.contextmanager
def _told_to_leave() -> Iterator[asyncio.Event]:
    """An event that the first signal sets. A second one, of SIGTERM and Ctrl-C, ends this process, and its worker, on
    the spot."""
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    seen: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        if number != _HANGUP:
            seen.append(number)
        if len(seen) > 1:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            os._exit(128 + number)
        loop.call_soon_threadsafe(told.set)

    # signal.signal and not the loop's add_signal_handler, which Windows lacks.
    heeded = [one for one in _SIGNALS if one != _HANGUP or signal.getsignal(one) is not signal.SIG_IGN]
    before = {number: signal.signal(number, on_signal) for number in heeded}
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
