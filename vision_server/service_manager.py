"""What a daemon and the service manager that started it tell one another: systemd's protocols, sd_notify(3) and
sd_listen_fds(3). Standard library only; without such a manager nothing is said and nothing was handed over.

The watchdog is fed by the event loop, twice in the time that is allowed: where the loop stands still nothing feeds it,
and the manager ends the process and starts another.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .errors import BadSetting

log = logging.getLogger(__name__)

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
_FIRST_FD = 3  # SD_LISTEN_FDS_START
_MOST_CHARS = 200


@dataclass(frozen=True)
class Told:
    """What the manager's variables say to this process. `watchdog_s` is None where nobody watches."""

    notify: str | None = None
    watchdog_s: float | None = None
    sockets: int = 0


def told(variables: Mapping[str, str], pid: int) -> Told:
    """Read them. What is meant for another process, or is no number, says nothing."""
    watched = variables.get("WATCHDOG_PID", str(pid)) == str(pid)
    watchdog_us = _whole(variables.get("WATCHDOG_USEC")) if watched else 0
    sockets = _whole(variables.get("LISTEN_FDS")) if variables.get("LISTEN_PID") == str(pid) else 0
    notify = variables.get("NOTIFY_SOCKET") or None
    return Told(notify, watchdog_us / 1e6 if notify and watchdog_us else None, sockets)


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else 0


def inherited(count: int, first_fd: int = _FIRST_FD) -> list[socket.socket]:
    """The sockets that were handed over, which listen already. Raises BadSetting where one is no TCP socket."""
    found = []
    for fd in range(first_fd, first_fd + count):
        os.set_inheritable(fd, False)
        try:
            given = socket.socket(fileno=fd)
        except OSError:
            raise BadSetting("what the service manager handed over is no socket.") from None
        if given.type != socket.SOCK_STREAM or given.family not in (socket.AF_INET, socket.AF_INET6):
            given.close()
            raise BadSetting("the service manager handed over a socket that is not TCP: use ListenStream=ADDRESS:PORT.")
        found.append(given)
    return found


class Manager:
    """The service manager at the socket `notify`, by path or, with @, by abstract name. Use it inside the event loop.

    Nothing that goes wrong here is an error of the daemon: it is logged, once.
    """

    def __init__(self, notify: str | None, watchdog_s: float | None = None) -> None:
        self._address = "\0" + notify[1:] if notify and notify.startswith("@") else notify
        self._interval_s = watchdog_s / 2 if watchdog_s else None
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._status = ""
        self._warned = False
        if self._address and sys.platform != "win32":  # which has no such sockets, and nobody who would be told
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def ready(self, status: Callable[[], str]) -> None:
        """It listens. From now on the watchdog is fed, and with each time told what `status` says, if that is new."""
        if self._socket is None:
            return
        self._status = _line(status())
        self._say("READY=1", f"STATUS={self._status}")
        if self._interval_s is not None:
            self._feed_later(self._interval_s, status)

    def stopping(self, within_s: float) -> None:
        """It was told to leave, and will have left within that time. The watchdog goes on being fed until `close`."""
        self._say("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(within_s * 1e6)}")

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._socket.close()
        self._timer = self._socket = None

    def _feed_later(self, interval_s: float, status: Callable[[], str]) -> None:
        self._timer = asyncio.get_running_loop().call_later(interval_s, self._feed, interval_s, status)

    def _feed(self, interval_s: float, status: Callable[[], str]) -> None:
        self._feed_later(interval_s, status)  # whatever goes wrong with this one
        words, before = ["WATCHDOG=1"], self._status
        self._status = _line(status())
        if self._status != before:
            words.append(f"STATUS={self._status}")
        self._say(*words)

    def _say(self, *words: str) -> None:
        if self._socket is None or self._address is None:
            return
        try:
            self._socket.sendto("\n".join(words).encode(), self._address)
        except BlockingIOError:
            pass  # the manager is behind; what comes next says the same
        except OSError as error:  # it may be back soon: systemd replaces itself when it is updated
            if not self._warned:
                log.warning("the service manager cannot be told anything (%s)", type(error).__name__)
            self._warned = True


def _line(text: str) -> str:
    return " ".join(text.split())[:_MOST_CHARS]
