"""What the handlers find in the application and in a request, by typed key."""

from __future__ import annotations

from aiohttp import web

from ..catalog import Checkpoint
from ..jobs import Queue
from ..settings import Settings

SETTINGS = web.AppKey("settings", Settings)
CHECKPOINT = web.AppKey("checkpoint", Checkpoint)
QUEUE = web.AppKey("queue", Queue)
REQUEST_ID = web.RequestKey("request_id", str)
