"""What the handlers find in the application and in a request, by typed key."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from ..jobs import Queue
from ..served import Served
from ..settings import Settings

SETTINGS = web.AppKey("settings", Settings)
MODELS: web.AppKey[Sequence[Served]] = web.AppKey("models")  # the default first
QUEUE = web.AppKey("queue", Queue)
REQUEST_ID = web.RequestKey("request_id", str)
