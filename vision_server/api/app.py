"""The application: settings in, aiohttp application out. Listening and signals are `daemon`'s."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from ipaddress import ip_network
from pathlib import Path

from aiohttp import web

from ..errors import BadSetting, UnknownPrompt
from ..fetching.connection import Fetcher
from ..jobs import Hello, Model, open_queue
from ..quotas import ClientQuotas
from ..served import Served, served, source
from ..settings import Settings
from ..tasks import lookup
from .bodies import leave_compressed_rest, max_body_bytes, max_image_bytes
from .guard import guard
from .keys import (
    FETCHER,
    INSTANCE_ID,
    METRICS,
    MODELS,
    PROXIES,
    QUEUE,
    QUOTAS,
    SETTINGS,
    STARTED_S,
    STARTED_UNIX_S,
    STATISTICS,
)
from .metrics import Metrics
from .middleware import errors_and_ids, stamp
from .prompting import check_phrases
from .requests import max_pixels
from .routes import add_routes
from .statistics import Statistics


def create_app(settings: Settings, worker_command: Sequence[str] | None = None) -> web.Application:
    """The application; its queue opens when it starts and closes with it. No worker starts before the first request,
    unless `standby` says so.

    `worker_command` replaces the worker by another program that speaks its protocol. Run it with
    `handler_cancellation=True`, else a client that leaves keeps its place in the queue. Raises BadSetting.
    """
    models = served(settings)
    try:
        lookup(settings.default_prompt, models[0].prompts)
    except UnknownPrompt as error:
        raise BadSetting(f"default_prompt {settings.default_prompt}: {error}") from None
    check_phrases(models, settings)
    app = web.Application(middlewares=[errors_and_ids, guard], client_max_size=max_body_bytes(settings))
    app[SETTINGS] = settings
    app[MODELS] = models
    app[QUOTAS] = ClientQuotas(settings.max_per_client, settings.rate_limit_per_min)
    app[PROXIES] = [ip_network(proxy) for proxy in settings.trusted_proxies]
    app[FETCHER] = Fetcher(settings.fetch_hosts, settings.fetch_timeout_s, max_image_bytes(settings))
    app[METRICS] = Metrics(lambda: app[QUEUE].status())
    app[STATISTICS] = Statistics(model.name for model in models)
    app[INSTANCE_ID] = secrets.token_hex(8)
    app[STARTED_S] = time.monotonic()
    app[STARTED_UNIX_S] = int(time.time())
    app.on_response_prepare.append(stamp)
    app.on_response_prepare.append(leave_compressed_rest)
    app.cleanup_ctx.append(_queue(worker_command))
    add_routes(app)
    return app


def _queue(command: Sequence[str] | None) -> Callable[[web.Application], AsyncIterator[None]]:
    opened = open_queue if command is None else partial(open_queue, command=command)

    async def open_and_close(app: web.Application) -> AsyncIterator[None]:
        settings = app[SETTINGS]
        async with opened(
            [Model(_hello(model, settings), model.idle_timeout_s) for model in app[MODELS]],
            max_queue=settings.max_queue,
            max_queue_bytes=int(settings.max_queue_mb * (1 << 20)),
            request_timeout_s=settings.request_timeout_s,
            load_stall_timeout_s=settings.load_stall_timeout_s,
            step_stall_timeout_s=settings.step_stall_timeout_s,
            shutdown_grace_s=settings.shutdown_grace_s,
            wait_for_download=settings.wait_for_download,
            standby=settings.standby,
        ) as queue:
            app[QUEUE] = queue
            yield

    return open_and_close


def _hello(model: Served, settings: Settings) -> Hello:
    """What the worker of this model is told."""
    checkpoint, files = model.checkpoint, source(model.checkpoint, settings)
    return Hello(
        directory=_absolute(checkpoint.directory),
        model=model.name,
        device=model.device,
        dtype=model.dtype,
        max_batch=None if settings.max_batch == "auto" else settings.max_batch,
        max_pixels=max_pixels(settings),
        log_level=settings.log_level,
        repository=checkpoint.repository,
        revision=checkpoint.revision,
        token=settings.hf_token,
        cache=_absolute(settings.cache_dir),
        offline=settings.offline,
        endpoint=settings.hf_endpoint,
        stall_timeout_s=files.stall_timeout_s if files else settings.download_stall_timeout_s,
        adapter=_absolute(model.adapter),
        feature_cache_bytes=int(settings.feature_cache_mb * (1 << 20)),
    )


def _absolute(path: Path | None) -> str | None:
    """The worker's working directory is another one than ours."""
    return None if path is None else str(path.absolute())
