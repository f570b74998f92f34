"""A running server, asked by HTTP: what the commands share that are clients. Standard library only.

Not here: what is asked, and how answers are shown.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

_CONNECT_TIMEOUT_S = 10
_MAX_MESSAGE_CHARS = 300


class ClientError(Exception):
    """What went wrong, in one line for the person who asked."""


class Unreachable(ClientError):
    """Nothing answers at the address."""


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
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        """`address` is http or https; `http://` and closing slashes may be left out. Raises ClientError."""
        self.url = _url(address)
        self._key = _sendable(key or "")
        # A proxy that the environment names is for other machines, not for this one. Nothing is followed elsewhere: a
        # key must not go to a host that nobody named.
        host = urllib.parse.urlsplit(self.url).hostname or ""
        local = host in ("localhost", "::1") or host.startswith("127.")
        proxies = urllib.request.ProxyHandler({} if local else None)
        self._opener = urllib.request.build_opener(proxies, _Http, _Https, _NoRedirect)

    def call(self, path: str, fields: dict[str, Any] | None = None) -> Any:
        """GET, or POST where there are fields (sent as JSON); the JSON that is answered."""
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
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from None
        except urllib.error.URLError as error:
            raise self._unreached(error.reason) from None
        except OSError:
            raise ClientError(f"{self.url} ended the connection without a whole answer.") from None
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

    def _refused(self, error: urllib.error.HTTPError) -> ClientError:
        with contextlib.suppress(ValueError, TypeError, KeyError, OSError, http.client.HTTPException):
            message = " ".join(str(json.load(error)["error"]).split())
            return ClientError(f"the server answered {error.code}: {message[:_MAX_MESSAGE_CHARS]}")
        return ClientError(f"{self.url} answers with status {error.code}; is it a vision-server?")

    def _unreached(self, reason: object) -> ClientError:
        if isinstance(reason, ConnectionRefusedError):
            return Unreachable(f"nothing listens at {self.url}.")
        if isinstance(reason, socket.gaierror):
            return Unreachable(f"cannot reach {self.url}: the name is not known.")
        if isinstance(reason, TimeoutError):
            return Unreachable(f"cannot reach {self.url}: timed out.")
        if isinstance(reason, ConnectionError):  # refused before all was sent, say because it was too much
            return ClientError(f"{self.url} ended the connection without a whole answer.")
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


def _sendable(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise ClientError("the server's address or key holds a character that cannot be sent.")
    return text


def _patient(connection: http.client.HTTPConnection) -> None:
    """The time limit was for connecting."""
    connection.sock.settimeout(None)


class _HttpConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _patient(self)


class _HttpsConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _patient(self)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HttpConnection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HttpsConnection, req)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None
