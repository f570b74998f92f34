"""What is around Ray: variables that it reads when it is imported, and silence. Imports none of it.

It is asked to keep its ports on this machine, behind a token, to phone nobody, and to say nothing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vision_server.errors import BadSetting, CannotServe
from vision_server.worker.process import KEEP_MEMORY

_CONNECT_TIMEOUT_S = 10.0


def variables(address: str | None) -> dict[str, str]:
    """Of the environment, for Ray and, where it is started here, for the engines."""
    always = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if address is not None:
        return always
    # "No cluster" is Ray's word for macOS, where it listens on the loopback only; without it, on every address.
    here = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return always | here | KEEP_MEMORY


def check_address(address: str) -> None:
    """Ray itself tries for minutes. Raises BadSetting for what is no address, CannotServe where nobody listens."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in address:
        raise BadSetting("--address: say HOST:PORT of the cluster, or auto, on a machine of the cluster.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise CannotServe(f"nothing answers at {address} ({type(error).__name__}).") from None


@contextlib.contextmanager
def silence() -> Iterator[IO[str]]:
    """What Ray prints, from Python and beside it, goes nowhere; yields where we can speak."""
    spoken, spare = sys.stderr, None
    sys.stderr.flush()
    with Path(os.devnull).open("w", encoding="utf-8") as nothing, contextlib.ExitStack() as undo:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if sys.stderr.fileno() == 2:
                spare = os.dup(2)
                spoken = undo.enter_context(os.fdopen(os.dup(2), "w", encoding=sys.stderr.encoding, buffering=1))
                os.dup2(nothing.fileno(), 2)
        undo.enter_context(contextlib.redirect_stderr(nothing))
        undo.enter_context(contextlib.redirect_stdout(nothing))
        try:
            yield spoken
        finally:
            if spare is not None:
                os.dup2(spare, 2)
                os.close(spare)
