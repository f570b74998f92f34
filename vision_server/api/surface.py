"""The published description of every dialect's calls, made once when the server starts, and the call that shows it."""

from __future__ import annotations

import json

from aiohttp import web

from . import kserve_openapi, native_openapi, ollama_openapi, openai_openapi, page
from .openapi import JSON, document

_DIALECTS = (native_openapi, openai_openapi, ollama_openapi, kserve_openapi, page)
OPERATIONS = tuple(operation for dialect in _DIALECTS for operation in dialect.OPERATIONS)
DOCUMENT = document(OPERATIONS, {name: schema for dialect in _DIALECTS for name, schema in dialect.SCHEMAS.items()})
_BODY = json.dumps(DOCUMENT, ensure_ascii=False).encode()


async def openapi(request: web.Request) -> web.Response:
    """GET /openapi.json. It shows no request, model or setting, and so asks for no key."""
    return web.Response(body=_BODY, content_type=JSON)
