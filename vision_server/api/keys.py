"""What the handlers find in the application and in a request, by typed key."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from aiohttp import web

from ..fetching.connection import Fetcher
from ..jobs import Outcome, Place, Queue
from ..quotas import ClientQuotas
from ..served import Served
from ..settings import Settings
from .metrics import Metrics
from .statistics import Statistics
from .streams import Stream

Network = IPv4Network | IPv6Network

SETTINGS = web.AppKey("settings", Settings)
MODELS: web.AppKey[Sequence[Served]] = web.AppKey("models")  # the default first
QUEUE = web.AppKey("queue", Queue)
QUOTAS = web.AppKey("quotas", ClientQuotas)
PROXIES: web.AppKey[Sequence[Network]] = web.AppKey("proxies")  # whose X-Forwarded-For is believed
FETCHER = web.AppKey("fetcher", Fetcher)
METRICS = web.AppKey("metrics", Metrics)
STATISTICS = web.AppKey("statistics", Statistics)
INSTANCE_ID = web.AppKey("instance_id", str)  # another one for every start of the daemon
STARTED_S = web.AppKey("started_s", float)  # monotonic
STARTED_UNIX_S = web.AppKey("started_unix_s", int)  # since 1970
PLACE = web.RequestKey("place", Place)
WAITS = web.RequestKey("waits", bool)  # the client sends its body only when it is told to
STREAM = web.RequestKey("stream", Stream)  # the answer that has begun
REQUEST_ID = web.RequestKey("request_id", str)
MODEL = web.RequestKey("model", str)  # the name of the one that is asked, once that is known
OUTCOMES: web.RequestKey[list[Outcome]] = web.RequestKey("outcomes")  # what the model said to this request
