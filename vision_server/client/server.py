"""A running server, asked by HTTP: what the commands share that are clients. Standard library only.

Not here: what is asked, and how answers are shown.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import math
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from .retries import Retries

_CONNECT_TIMEOUT_S = 10
_NOT_NOW = (429, 503)
_FROM_A_PROXY = (
    502,
    504,
)  # whose server went away, or stood still; our own 504 is the end of a wait that was long enough
_MAX_MESSAGE_CHARS = 300


class ClientError(Exception):
    """What went wrong, in one line for the person who asked."""


class Unreachable(ClientError):
    """Nothing answers at the address."""


class Broken(ClientError):
    """The connection ended before the answer was whole."""


class Refused(ClientError):
    """It answered with an error, of this HTTP `status`. `message` is the server's; None where it is none of ours.
    `retry_after_s` is its Retry-After, None without one."""

    def __init__(self, text: str, status: int, message: str | None, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Prompt:
    """A prompt that the server takes. `advised` ones are those its model was trained for; `input` is what it wants:
    none, text, region or optional_text."""

    token: str
    input: str
    explanation: str
    advised: bool


class Server:
    """One server. Every call raises ClientError, and Unreachable where it cannot be reached.

    An answer may take as long as it takes, since the model may have to load; the server ends a wait that is too long.
    Unless `answer_timeout_s` says otherwise, for calls that wait for no model.

    With `retry_for_s` a call is made again, after pauses of no longer than that in all, where that can help: on 429 and
    503 as Retry-After says, on what a proxy says of a server that went away (502, 504), and on a connection that broke.
    Nothing is done twice by that: a caption has no effects. A server that was never reached is not waited for.
    """

    def __init__(
        self,
        address: str,
        key: str | None = None,
        answer_timeout_s: float | None = None,
        *,
        retry_for_s: float = 0.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """`address` is http or https; `http://` and closing slashes may be left out. Raises ClientError."""
        self.url = _url(address)
        self._retry_for_s = retry_for_s
        self._sleep = sleep
        self._has_answered = False
        self._key = _sendable(key or "")
        # A proxy that the environment names is for other machines, not for this one. Nothing is followed elsewhere: a
        # key must not go to a host that nobody named.
        host = urllib.parse.urlsplit(self.url).hostname or ""
        local = host in ("localhost", "::1") or host.startswith("127.")
        proxies = urllib.request.ProxyHandler({} if local else None)
        self._opener = urllib.request.build_opener(
            proxies, _Http(answer_timeout_s), _Https(answer_timeout_s), _NoRedirect
        )

    def call(self, path: str, fields: dict[str, Any] | None = None) -> Any:
        """GET, or POST where there are fields (sent as JSON); the JSON that is answered."""
        retries = Retries(self._retry_for_s)
        while True:
            try:
                return self._ask(path, fields)
            except Refused as error:
                passing = error.status in _NOT_NOW or (error.status in _FROM_A_PROXY and error.message is None)
                pause_s = retries.pause_s(error.retry_after_s) if passing else None
                if pause_s is None:
                    raise
            except (Broken, Unreachable) as error:
                pause_s = None
                if self._has_answered or isinstance(error, Broken):
                    pause_s = retries.pause_s(None, broken=isinstance(error, Broken))
                if pause_s is None:
                    raise
            self._sleep(pause_s)

    def _ask(self, path: str, fields: dict[str, Any] | None) -> Any:
        headers = {"Accept": "application/json"}
        body = None
        if fields is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(fields).encode()
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url + path, body, headers)
        try:
            with self._opener.open(request, timeout=_CONNECT_TIMEOUT_S) as response:
                self._has_answered = True
                return json.load(response)
        except urllib.error.HTTPError as error:
            self._has_answered = True
            with error:
                raise self._refused(error) from None
        except urllib.error.URLError as error:
            raise self._unreached(error.reason) from None
        except TimeoutError:
            raise ClientError(f"{self.url} takes the connection but does not answer.") from None
        except (OSError, http.client.IncompleteRead):
            raise Broken(f"{self.url} ended the connection without a whole answer.") from None
        except (ValueError, http.client.HTTPException):
            raise ClientError(f"what answers at {self.url} is no vision-server.") from None

    def caption(self, picture: bytes, prompt: str, text: str = "", region: Any = None) -> str | dict[str, Any]:
        """The answer to a prompt on a picture's file. `region` as the API takes it, None or "" for none."""
        fields = {"image": base64.b64encode(picture).decode(), "prompt": prompt, "text_input": text, "region": region}
        answered = self.call("/process_image", fields)
        if not isinstance(answered, dict) or not isinstance(result := answered.get("result"), str | dict):
            raise self._foreign()
        return result

    def prompts(self) -> list[Prompt]:
        """All that the server takes, the advised ones first."""
        advised, every = self.call("/prompts"), self.call("/prompts?all=1")
        try:
            listed = [Prompt(p["token"], p["input"], p["explanation"], p["token"] in advised) for p in every]
        except (TypeError, KeyError):
            listed = []
        if not listed:
            raise self._foreign()
        return listed

    def _refused(self, error: urllib.error.HTTPError) -> Refused:
        after_s = _seconds(error.headers.get("Retry-After"))
        with contextlib.suppress(ValueError, TypeError, KeyError, OSError, http.client.HTTPException):
            message = " ".join(str(json.load(error)["error"]).split())[:_MAX_MESSAGE_CHARS]
            return Refused(f"the server answered {error.code}: {message}", error.code, message, after_s)
        text = f"{self.url} answers with status {error.code}; is it a vision-server?"
        return Refused(text, error.code, None, after_s)

    def _unreached(self, reason: object) -> ClientError:
        if isinstance(reason, ConnectionRefusedError):
            return Unreachable(f"nothing listens at {self.url}.")
        if isinstance(reason, socket.gaierror):
            return Unreachable(f"cannot reach {self.url}: the name is not known.")
        if isinstance(reason, TimeoutError):
            return Unreachable(f"cannot reach {self.url}: timed out.")
        if isinstance(reason, ConnectionError):  # refused before all was sent, say because it was too much
            return Broken(f"{self.url} ended the connection without a whole answer.")
        return Unreachable(f"cannot reach {self.url} ({type(reason).__name__}).")

    def _foreign(self) -> ClientError:
        return ClientError(f"what answers at {self.url} is no vision-server.")


def _url(address: str) -> str:
    address = _sendable(address).strip()
    if "://" not in address:
        address = f"http://{address}"
    with contextlib.suppress(ValueError):  # of a port that is no number, or half a bracket
        parts = urllib.parse.urlsplit(address)
        if parts.scheme.lower() in ("http", "https") and parts.hostname and (parts.port or 1):
            return address.rstrip("/")
    raise ClientError(f"{address} is no address of a server: give one like http://127.0.0.1:54880.")


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After in seconds; None for a date, which our servers never send, and for what is neither."""
    with contextlib.suppress(TypeError, ValueError):
        seconds = float(retry_after or "")
        return seconds if math.isfinite(seconds) else None
    return None


def _sendable(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise ClientError("the server's address or key holds a character that cannot be sent.")
    return text


class _HttpConnection(http.client.HTTPConnection):
    """The time limit that it is given is for connecting, the other one for what comes then."""

    def __init__(self, answer_timeout_s: float | None, host: str, **others: Any) -> None:
        super().__init__(host, **others)
        self._answer_timeout_s = answer_timeout_s

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self._answer_timeout_s)


class _HttpsConnection(http.client.HTTPSConnection):
    def __init__(self, answer_timeout_s: float | None, host: str, **others: Any) -> None:
        super().__init__(host, **others)
        self._answer_timeout_s = answer_timeout_s

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self._answer_timeout_s)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, answer_timeout_s: float | None) -> None:
        super().__init__()
        self._connection = partial(_HttpConnection, answer_timeout_s)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, answer_timeout_s: float | None) -> None:
        super().__init__()
        self._connection = partial(_HttpsConnection, answer_timeout_s)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None
