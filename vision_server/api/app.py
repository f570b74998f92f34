"""The application: settings in, aiohttp application out. Listening and signals are `daemon`'s."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from aiohttp import web

from ..errors import BadSetting, UnknownPrompt
from ..jobs import open_queue
from ..served import served, source
from ..settings import Settings
from ..tasks import lookup
from .bodies import max_body_bytes
from .guard import guard
from .keys import CHECKPOINT, QUEUE, SETTINGS
from .middleware import errors_and_ids, stamp
from .requests import max_pixels
from .routes import add_routes


def create_app(settings: Settings, worker_command: Sequence[str] | None = None) -> web.Application:
    """The application; its queue opens when it starts and closes with it. No worker starts before the first request.

    `worker_command` replaces the worker by another program that speaks its protocol. Run it with
    `handler_cancellation=True`, else a client that leaves keeps its place in the queue. Raises BadSetting.
    """
    first = served(settings)[0]
    try:
        lookup(settings.default_prompt, first.prompts)
    except UnknownPrompt as error:
        raise BadSetting(f"default_prompt {settings.default_prompt}: {error}") from None
    app = web.Application(middlewares=[errors_and_ids, guard], client_max_size=max_body_bytes(settings))
    app[SETTINGS] = settings
    app[CHECKPOINT] = first.checkpoint
    app.on_response_prepare.append(stamp)
    app.cleanup_ctx.append(_queue(worker_command))
    add_routes(app)
    return app


def _queue(command: Sequence[str] | None) -> Callable[[web.Application], AsyncIterator[None]]:
    opened = open_queue if command is None else partial(open_queue, command=command)

    async def open_and_close(app: web.Application) -> AsyncIterator[None]:
        settings = app[SETTINGS]
        first = served(settings)[0]
        files = source(first.checkpoint, settings)
        async with opened(
            directory=first.checkpoint.directory,
            model=first.name,
            device=first.device,
            dtype=first.dtype,
            adapter=first.adapter,
            idle_timeout_s=first.idle_timeout_s,
            repository=first.checkpoint.repository,
            revision=first.checkpoint.revision,
            token=settings.hf_token,
            cache=settings.cache_dir,
            offline=settings.offline,
            endpoint=settings.hf_endpoint,
            download_stall_timeout_s=files.stall_timeout_s if files else settings.download_stall_timeout_s,
            max_queue=settings.max_queue,
            max_batch=settings.max_batch,
            request_timeout_s=settings.request_timeout_s,
            load_stall_timeout_s=settings.load_stall_timeout_s,
            step_stall_timeout_s=settings.step_stall_timeout_s,
            shutdown_grace_s=settings.shutdown_grace_s,
            max_pixels=max_pixels(settings),
            log_level=settings.log_level,
        ) as queue:
            app[QUEUE] = queue
            yield

    return open_and_close
