"""The whole surface on one screen."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from . import kserve, native, ollama, openai, page, surface
from .wire import wait_with_body


def add_routes(app: web.Application) -> None:
    get = partial(app.router.add_get, expect_handler=wait_with_body)
    post = partial(app.router.add_post, expect_handler=wait_with_body)
    post("/process_image", native.process_image)
    get("/prompts", native.prompts)
    get("/model", native.model)
    get("/status", native.status)
    post("/load", native.load)
    post("/unload", native.unload)
    get("/health", native.health)
    get("/ready", native.ready)
    get("/metrics", native.metrics)
    post("/v1/chat/completions", openai.chat_completions)
    get("/v1/models", openai.models)
    get(r"/v1/models/{id:[\s\S]+}", openai.model)  # with slashes, and whatever else somebody sends
    post("/api/generate", ollama.generate)
    post("/api/chat", ollama.chat)
    get("/api/tags", ollama.tags)
    get("/api/ps", ollama.ps)
    post("/api/show", ollama.show)
    get("/api/version", ollama.version)
    get("/v2", kserve.server)
    get("/v2/health/live", kserve.live)
    get("/v2/health/ready", kserve.ready)
    get("/v2/models/stats", kserve.statistics)
    for model in ("/v2/models/{model:.+}/versions/{version}", "/v2/models/{model:.+}"):
        get(f"{model}/ready", kserve.model_ready)
        get(f"{model}/config", kserve.config)
        get(f"{model}/stats", kserve.statistics)
        post(f"{model}/infer", kserve.infer)
    get("/v2/models/{model:.+}/versions/{version}", kserve.model)
    get("/v2/models/{model:(?!.+/(?:ready|config|stats|infer)$).+}", kserve.model)  # a name may hold a slash
    post("/v2/repository/index", kserve.index)
    post("/v2/repository/models/{model:.+}/load", kserve.load)
    post("/v2/repository/models/{model:.+}/unload", kserve.unload)
    get("/openapi.json", surface.openapi)
    get("/", page.index)
    get("/docs", page.docs)
    get("/favicon.ico", page.icon)
    get("/page/{name}", page.file)
