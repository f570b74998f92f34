"""The whole surface on one screen."""

from __future__ import annotations

from aiohttp import web

from . import native


def add_routes(app: web.Application) -> None:
    app.router.add_post("/process_image", native.process_image)
    app.router.add_get("/prompts", native.prompts)
    app.router.add_get("/model", native.model)
    app.router.add_get("/status", native.status)
    app.router.add_post("/load", native.load)
    app.router.add_post("/unload", native.unload)
    app.router.add_get("/health", native.health)
    app.router.add_get("/ready", native.ready)
