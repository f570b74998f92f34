"""A request's body -> its fields, whether it came as JSON, as multipart/form-data or as the bare picture.

The declared content type decides only for multipart. Otherwise the bytes do: what begins like a picture is one, and all
else is JSON, since many clients declare nothing or something wrong. Nothing is queued or decoded here.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import zlib
from typing import Any, NoReturn

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from .. import images
from ..errors import BadImage, BadRequest, BodyTooSlow, ImageRefused, TooLarge
from ..settings import Settings
from .keys import SETTINGS

_SLACK_BYTES = 1 << 20  # for the other fields of a body
_MAX_PARTS = 32
_DATA_URI = re.compile(r"\s*data:([^,]{0,200}),", re.IGNORECASE)
_NO_SPACE = dict.fromkeys(map(ord, " \t\r\n\f\v"))
# What the readers of aiohttp raise on a body that contradicts its headers.
_BROKEN = (ValueError, RuntimeError, AssertionError, HttpProcessingError, web.RequestPayloadError, zlib.error)


def max_image_bytes(settings: Settings) -> int:
    return int(settings.max_body_mb * (1 << 20))


def max_body_bytes(settings: Settings) -> int:
    """The largest body that is read: the largest picture in base64, with line breaks and the other fields."""
    return max_image_bytes(settings) * 7 // 5 + _SLACK_BYTES


def check_length(request: web.Request) -> None:
    """Raises TooLarge for a body that says beforehand that it is."""
    settings = request.app[SETTINGS]
    if (request.content_length or 0) > max_body_bytes(settings):
        raise _too_large(settings)


async def read_fields(request: web.Request) -> dict[str, Any]:
    """Every field of the request; those of the body win over the query's. `image` is there, and is bytes.

    Raises BadRequest, BadImage, ImageRefused, TooLarge, BodyTooSlow.
    """
    settings = request.app[SETTINGS]
    read = _multipart if request.content_type == "multipart/form-data" else _json_or_raw
    try:
        fields = await asyncio.wait_for(read(request), settings.body_timeout_s)
    except asyncio.TimeoutError:
        raise BodyTooSlow(f"The body took longer than {settings.body_timeout_s:g} s to arrive.") from None
    if not fields.get("image"):
        raise BadRequest('There is no picture: send it as the field "image", or as the whole body.')
    return {**request.query, **fields, "image": decode_image(fields["image"], settings)}


async def _json_or_raw(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.read()
    except _BROKEN:
        raise BadRequest("The body broke off, or is not encoded as its headers say.") from None
    if images.sniff(body) is not None:
        return {"image": body}
    if not body.strip():
        raise BadRequest('The body is empty: send a picture, or JSON like {"image": "<base64>", "prompt": "CAPTION"}.')
    if request.content_type != "application/json" and not body.lstrip().startswith((b"{", b"[", b'"')):
        raise BadImage(f"The body is neither JSON nor a picture that is decoded here: send {images.FORMATS}.")
    return parse_json(body)


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises BadRequest."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadRequest("The JSON in the body cannot be read.") from None
    if not isinstance(value, dict):
        raise BadRequest('The JSON must be an object like {"image": "<base64>", "prompt": "CAPTION"}.')
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are Python's idea, not JSON's


async def _multipart(request: web.Request) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    left = max_body_bytes(request.app[SETTINGS])
    try:
        reader = await request.multipart()
        for _ in range(_MAX_PARTS):
            part = await reader.next()
            if part is None:
                return fields
            if not isinstance(part, BodyPartReader):
                raise BadRequest("The form holds another form: send plain fields.")
            data = bytes(await part.read(decode=True))
            left -= len(data)
            if left < 0:
                raise _too_large(request.app[SETTINGS])
            if part.name == "image":
                is_file = part.filename is not None or images.sniff(data) is not None
                fields["image"] = data if is_file else data.decode()
            elif part.name is not None:
                fields[part.name] = data.decode()
    except _BROKEN:
        raise BadRequest("The form cannot be read: send multipart/form-data with fields in UTF-8.") from None
    raise BadRequest(f"The form has more than {_MAX_PARTS} parts.")


def decode_image(value: object, settings: Settings) -> bytes:
    """The picture's file from base64 text or a data: URI, or as it is. Raises BadRequest, ImageRefused, TooLarge."""
    data = _decode_base64(value, settings) if isinstance(value, str) else value
    if not isinstance(data, bytes):
        raise BadRequest("The image must be text: base64, or a data: URI.")
    if len(data) > max_image_bytes(settings):
        raise _too_large(settings)
    return data


def _decode_base64(text: str, settings: Settings) -> bytes:
    if uri := _DATA_URI.match(text):
        if not uri[1].lower().replace(" ", "").endswith(";base64"):
            raise BadRequest("The data: URI must be base64: data:image/png;base64,...")
        text = text[uri.end() :]
    elif re.match(r"\s*[a-z][a-z0-9+.-]{0,20}:", text, re.IGNORECASE):
        raise ImageRefused("Pictures are not fetched from addresses here: send the picture itself, in base64.")
    if len(text) > max_body_bytes(settings):
        raise _too_large(settings)
    text = text.translate(_NO_SPACE)
    if "-" in text or "_" in text:
        raise BadRequest("The image is in URL-safe base64: send standard base64, with + and / in place of - and _.")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise BadRequest("The image is not base64: it has a foreign character, or its end is missing.") from None


def _too_large(settings: Settings) -> TooLarge:
    return TooLarge(f"The picture is larger than {settings.max_body_mb:g} MiB: send a smaller one.")
