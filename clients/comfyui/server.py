"""A vision-server, asked by HTTP in a way that another thread can end. Standard library only.

Not here: what is asked (`nodes`), and the waiting for several answers (`asking`).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import weakref
from functools import partial
from typing import Any

HERE = "http://127.0.0.1:54880"
PATIENCE_S = 300.0  # so long a picture waits, in all, for a server that is full or not ready yet
_PAUSE_S = (1.0, 30.0)  # bounds of one such wait, whatever Retry-After says
_CONNECT_TIMEOUT_S = 10.0
_MAX_MESSAGE_CHARS = 1000


class VisionServerError(RuntimeError):
    """What went wrong and what to do, in the words that ComfyUI shows."""


class Refused(VisionServerError):
    """The server answered with an error: HTTP `status`, `code` ("" if none), and the `retry_after_s` it named."""

    def __init__(self, text: str, status: int, code: str, retry_after_s: float | None) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def is_passing(self) -> bool:
        """A full queue, or a server that leaves or still fetches its model. A load that failed is none of these."""
        return self.status == 429 or (self.status == 503 and self.code == "unavailable")


class Stopped(Exception):
    """`stop` was called."""


class Server:
    """One server. Calls may come from several threads; each raises VisionServerError, or Stopped after `stop`.

    An answer may take as long as it takes, since the model may have to load; the server ends a wait that is too long.
    Unless `answer_timeout_s` says otherwise, for calls that wait for no model.
    """

    def __init__(self, address: str = "", key: str = "", answer_timeout_s: float | None = None) -> None:
        """An empty `address` is VISION_HOST's, or this machine's. An empty `key` is VISION_API_KEY's, but for that
        address alone: a workflow from somebody else must not carry the key to a host of its choice."""
        usual = _url(os.environ.get("VISION_HOST", "").strip() or HERE)
        self.url = _url(address.strip()) if address.strip() else usual
        self._key = _sendable(key.strip() or (os.environ.get("VISION_API_KEY", "") if self.url == usual else ""))
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        # A proxy that the environment names is for other machines, not for this one. Nothing is followed elsewhere.
        host = urllib.parse.urlsplit(self.url).hostname or ""
        local = host in ("localhost", "::1") or host.startswith("127.")
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({} if local else None),
            _Handler(partial(_Http, self._opened, answer_timeout_s)),
            _SecureHandler(partial(_Https, self._opened, answer_timeout_s)),
            _NoRedirect,
        )

    def stop(self) -> None:
        """Ends the calls under way and those to come. The server sees the connections end and drops what waits."""
        with self._lock:
            self._stopped.set()
            for connected in self._sockets:
                _end(connected)

    def call(self, path: str, fields: dict[str, Any] | None = None) -> Any:
        """GET, or POST where there are fields (sent as JSON); the JSON that is answered."""
        headers = {"Accept": "application/json"}
        body = None
        if fields is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(fields).encode()
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            return self._answer(urllib.request.Request(self.url + path, body, headers))
        except VisionServerError:
            if self._stopped.is_set():
                raise Stopped from None
            raise

    def call_patiently(self, path: str, fields: dict[str, Any]) -> Any:
        """The same; while the server has no place or is not ready it is asked again, for PATIENCE_S at most."""
        end_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.call(path, fields)
            except Refused as error:
                least_s, most_s = _PAUSE_S
                pause_s = min(max(error.retry_after_s or least_s, least_s), most_s)
                if not error.is_passing or time.monotonic() + pause_s > end_s:
                    raise
            if self._stopped.wait(pause_s):
                raise Stopped

    def _opened(self, connected: socket.socket) -> None:
        with self._lock:
            self._sockets.add(connected)
            if self._stopped.is_set():
                _end(connected)

    def _answer(self, request: urllib.request.Request) -> Any:
        if self._stopped.is_set():
            raise Stopped
        try:
            with self._opener.open(request, timeout=_CONNECT_TIMEOUT_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from None
        except urllib.error.URLError as error:
            raise self._unreached(error.reason) from None
        except TimeoutError:
            raise VisionServerError(f"{self.url} takes the connection but does not answer.") from None
        except OSError:
            raise VisionServerError(f"{self.url} ended the connection without a whole answer.") from None
        except (ValueError, http.client.HTTPException):
            raise self.foreign() from None

    def _refused(self, error: urllib.error.HTTPError) -> Refused:
        retry_after_s = None
        with contextlib.suppress(ValueError):  # a date, which our server never sends
            retry_after_s = float(error.headers.get("Retry-After", ""))
        with contextlib.suppress(ValueError, TypeError, KeyError, OSError, http.client.HTTPException):
            said = json.load(error)
            message = " ".join(str(said["error"]).split())[:_MAX_MESSAGE_CHARS]
            text = f"vision-server at {self.url} refuses (status {error.code}): {message}"
            if error.code == 401:
                text += " Put the key into the node's api_key, or into VISION_API_KEY where ComfyUI starts."
            return Refused(text, error.code, str(said.get("code", "")), retry_after_s)
        text = f"{self.url} answers with status {error.code}; is it a vision-server?"
        return Refused(text, error.code, "", retry_after_s)

    def _unreached(self, reason: object) -> VisionServerError:
        what = f"There is no vision-server at {self.url}"
        if isinstance(reason, socket.gaierror):
            what = f"The name in {self.url} is not known"
        elif isinstance(reason, TimeoutError):
            what = f"{self.url} does not answer in time"
        elif isinstance(reason, ConnectionError) and not isinstance(reason, ConnectionRefusedError):
            return VisionServerError(f"{self.url} ended the connection without a whole answer.")
        return VisionServerError(f"{what}. Start one with `vision-server`, or set the node's server, or VISION_HOST.")

    def foreign(self) -> VisionServerError:
        """For an answer that no vision-server gives."""
        return VisionServerError(f"What answers at {self.url} is no vision-server.")


def _url(address: str) -> str:
    address = _sendable(address)
    if "://" not in address:
        address = f"http://{address}"
    with contextlib.suppress(ValueError):  # of a port that is no number, or half a bracket
        parts = urllib.parse.urlsplit(address)
        if parts.scheme.lower() in ("http", "https") and parts.hostname and (parts.port or 1):
            return address.rstrip("/")
    raise VisionServerError(f"{address} is no address of a server: give one like {HERE}.")


def _sendable(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise VisionServerError("The server's address or key holds a character that cannot be sent.")
    return text


def _end(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may have ended by itself
        connected.shutdown(socket.SHUT_RDWR)


class _Http(http.client.HTTPConnection):
    """Tells of its socket. The time limit it is given is for connecting, the other one for what comes then."""

    def __init__(self, opened: Any, answer_timeout_s: float | None, host: str, **others: Any) -> None:
        super().__init__(host, **others)
        self._opened, self._answer_timeout_s = opened, answer_timeout_s

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self._answer_timeout_s)
        self._opened(self.sock)


class _Https(http.client.HTTPSConnection):
    def __init__(self, opened: Any, answer_timeout_s: float | None, host: str, **others: Any) -> None:
        super().__init__(host, **others)
        self._opened, self._answer_timeout_s = opened, answer_timeout_s

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self._answer_timeout_s)
        self._opened(self.sock)


class _Handler(urllib.request.HTTPHandler):
    def __init__(self, connection: Any) -> None:
        super().__init__()
        self._connection = connection

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)


class _SecureHandler(urllib.request.HTTPSHandler):
    def __init__(self, connection: Any) -> None:
        super().__init__()
        self._connection = connection

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None
