"""Whether the process lives and can serve, said the same way in every dialect. Looks only: nothing loads for it."""

from __future__ import annotations

from aiohttp import web

from ..errors import CannotServe, LoadFailed
from ..jobs import Status
from .guard import has_key
from .keys import QUEUE

_ASK_AGAIN_S = 5
_LEAVING = "The server is shutting down."


def check_live(request: web.Request) -> Status:
    """Asleep is alive. Raises CannotServe while the server leaves."""
    now = request.app[QUEUE].status()
    if now.draining:
        raise CannotServe(_LEAVING, retry_after_s=_ASK_AGAIN_S)
    return now


def check_ready(request: web.Request, model: str | None = None) -> Status:
    """Asleep is ready. Raises CannotServe while the server leaves, LoadFailed where the last load failed.

    That is the last load of `model`, by its name, or else of the worker's one. After a failed load it is ready again in
    time, to be tried: nothing but a request loads the model.
    """
    now = check_live(request)
    if now.leaving:
        raise CannotServe(_LEAVING, retry_after_s=_ASK_AGAIN_S)
    model = model or now.model
    if (left_s := now.unready_s.get(model)) is not None:
        reason = now.failures[model] if has_key(request) else "/status tells why to those who have the key."
        raise LoadFailed(f"The last load failed: {reason}", retry_after_s=left_s)
    return now
