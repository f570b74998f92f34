"""A request's body -> its fields, whether it came as JSON, as multipart/form-data or as the bare picture.

The declared content type decides only for multipart. Otherwise the bytes do: what begins like a picture is one, and all
else is JSON, since many clients declare nothing or something wrong. A picture that is named by its address is fetched
here, in the place that admission has given the request. Nothing is queued or decoded.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import zlib
from typing import Any, NoReturn

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from .. import images
from ..errors import BadImage, BadRequest, BodyTooSlow, TooLarge
from ..fetching.address import is_address
from ..settings import Settings
from . import forms
from .keys import FETCHER, PLACE, QUEUE, SETTINGS
from .requests import max_pixels
from .wire import invite_body

_SLACK_BYTES = 1 << 20  # for the other fields of a body
_DATA_URI = re.compile(r"\s{0,64}data:([^,]{0,200}),", re.IGNORECASE)
_ESCAPED = (("%2B", "+"), ("%2F", "/"), ("%3D", "="))  # what of base64 may be escaped in a URI
_MAX_JSON_VALUES = 100_000  # an empty list takes two bytes of text and sixty of memory
_SPACE = b" \t\r\n\f\v"
_CODINGS = ("identity", "", "gzip", "deflate")  # aiohttp reads more where their libraries happen to be installed
# What the readers of aiohttp raise on a body that contradicts its headers, or whose sender has left.
_BROKEN = (
    ValueError,
    RuntimeError,
    AssertionError,
    ConnectionError,
    HttpProcessingError,
    web.RequestPayloadError,
    zlib.error,
)


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

    Raises as `read_body` and `picture`, and BadImage.
    """
    body = await read_body(request)
    if request.content_type == "multipart/form-data":
        fields = _form(body, request.headers[hdrs.CONTENT_TYPE])
    else:
        fields = _json_or_raw(body, request.content_type)
    image = fields.get("image")
    if not image:
        raise BadRequest('There is no picture: send it as the field "image", or as the whole body.')
    return {**request.query, **fields, "image": await picture(request, image)}


async def read_body(request: web.Request, most_bytes: int | None = None) -> bytes:
    """At most so many bytes, or else the largest picture there may be. Raises BadRequest, TooLarge, BodyTooSlow."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() not in _CODINGS:
        raise BadRequest("The body is compressed otherwise than by gzip or deflate: send it plain, or by one of those.")
    timeout_s = request.app[SETTINGS].body_timeout_s
    try:
        return await asyncio.wait_for(_read(request, most_bytes or request.client_max_size), timeout_s)
    except asyncio.TimeoutError:
        raise BodyTooSlow(f"The body took longer than {timeout_s:g} s to arrive.") from None
    except _BROKEN:
        raise BadRequest("The body broke off, or is not encoded as its headers say.") from None


async def picture(request: web.Request, image: object, others_bytes: int = 0) -> bytes:
    """The picture's file from base64, a data: URI or its address, or as it is; checked by its header.

    The request has its place in the queue (`admission.admitted`), which a picture that is fetched makes larger, beside
    the `others_bytes` of the same request. Raises BadRequest, FetchFailed, QueueFull, and as `images.check`.
    """
    settings = request.app[SETTINGS]
    if isinstance(image, str) and is_address(image):
        request.app[QUEUE].resize(request[PLACE], others_bytes + max_image_bytes(settings))
        image = await request.app[FETCHER].fetch(image)
    file = decode_image(image, settings)
    images.check(file, max_pixels(settings))
    return file


async def _read(request: web.Request, most_bytes: int) -> bytes:
    """The body, at most as large as allowed; what is compressed is inflated piece by piece."""
    compressed = hdrs.CONTENT_ENCODING in request.headers
    if not compressed:
        request.content.set_read_chunk_size(most_bytes)  # in few pieces
    await invite_body(request)
    body = bytearray()
    try:
        while piece := await request.content.readany():
            body += piece
            if len(body) > most_bytes:
                raise _too_large(request.app[SETTINGS], most_bytes)
            if compressed:
                await asyncio.sleep(0)  # inflating takes time without waiting for anything
        return bytes(body)
    finally:
        body.clear()  # an error keeps this frame until the next garbage collection


async def leave_compressed_rest(request: web.Request, response: web.StreamResponse) -> None:
    """A signal handler for `on_response_prepare`: after an answer before its end, a compressed body is not read on.

    aiohttp reads for some seconds what a refused client still sends, so that the client sees the answer. Inflating all
    that would cost far more than it cost to send.
    """
    if hdrs.CONTENT_ENCODING in request.headers and not request.content.is_eof():
        response.headers[hdrs.CONNECTION] = "close"
        request.protocol.close()


def _json_or_raw(body: bytes, content_type: str) -> dict[str, Any]:
    if images.sniff(body) is not None:
        return {"image": body}
    if not body.strip():
        raise BadRequest('The body is empty: send a picture, or JSON like {"image": "<base64>", "prompt": "CAPTION"}.')
    if content_type != "application/json" and not body.lstrip().startswith((b"{", b"[", b'"')):
        raise BadImage(f"The body is neither JSON nor a picture that is decoded here: send {images.FORMATS}.")
    return parse_json(body)


def parse_json(body: bytes, example: str = '{"image": "<base64>", "prompt": "CAPTION"}') -> dict[str, Any]:
    """A JSON object; who sends something else is shown the `example`. Raises BadRequest."""
    if sum(map(body.count, (b"[", b"{", b","))) > _MAX_JSON_VALUES:
        raise BadRequest(f"The JSON in the body has more than {_MAX_JSON_VALUES:,} values.")
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadRequest("The JSON in the body cannot be read.") from None
    if not isinstance(value, dict):
        raise BadRequest(f"The JSON must be an object like {example}.")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are Python's idea, not JSON's


def _form(body: bytes, content_type: str) -> dict[str, Any]:
    """The last of several fields with one name counts; the picture may be a file or text."""
    fields: dict[str, Any] = {}
    for part in forms.parts(body, content_type):
        is_picture = part.name == "image" and (part.is_file or images.sniff(part.data) is not None)
        fields[part.name] = part.data if is_picture else part.text
    return fields


def decode_image(value: object, settings: Settings) -> bytes:
    """The picture's file from base64 text or a data: URI, or as it is. Raises BadRequest, TooLarge."""
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
        for escape, character in _ESCAPED if "%" in text else ():
            text = text.replace(escape, character).replace(escape.lower(), character)
    if len(text) > max_body_bytes(settings):
        raise _too_large(settings)
    if "-" in text or "_" in text:
        raise BadRequest("The image is in URL-safe base64: send standard base64, with + and / in place of - and _.")
    try:
        return base64.b64decode(text.encode("ascii").translate(None, _SPACE), validate=True)
    except ValueError:
        raise BadRequest("The image is not base64: it has a foreign character, or its end is missing.") from None


def _too_large(settings: Settings, most_bytes: int | None = None) -> TooLarge:
    if most_bytes is not None and most_bytes < max_body_bytes(settings):
        return TooLarge(f"The body is larger than the {most_bytes:,} bytes that this call takes.")
    return TooLarge(f"The picture is larger than {settings.max_body_mb:g} MiB: send a smaller one.")
