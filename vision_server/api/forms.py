"""A multipart/form-data body -> its parts, in time and memory that grow with its length and with nothing else.

The body is here in whole, and is cut at its boundary: a reader that goes line by line can be kept busy for a minute by
a body of line breaks. RFC 7578; what that leaves to older forms (parts in base64, forms within forms) is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import NamedTuple

from ..errors import BadRequest

MAX_PARTS = 32
_MAX_HEAD_BYTES = 8190
_UNREADABLE = "The form cannot be read: send multipart/form-data with fields in UTF-8."


class Part(NamedTuple):
    name: str
    is_file: bool
    data: bytes

    @property
    def text(self) -> str:
        """Raises BadRequest for what is not UTF-8."""
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            raise BadRequest(_UNREADABLE) from None


def parts(body: bytes, content_type: str) -> Iterator[Part]:
    """The parts that have a name, in their order. Raises BadRequest."""
    boundary = _parameter("Content-Type", content_type, "boundary")
    if not boundary or len(boundary) > 70 or not boundary.isascii():
        raise BadRequest(_UNREADABLE)
    _, *pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode(), MAX_PARTS + 2)
    for at, piece in enumerate(pieces):
        if piece.startswith(b"--"):
            return
        if at == MAX_PARTS:
            raise BadRequest(f"The form has more than {MAX_PARTS} parts.")
        if (part := _part(piece)) is not None:
            yield part
    raise BadRequest(_UNREADABLE)  # its end is missing


def _part(piece: bytes) -> Part | None:
    """What stands behind a boundary; None where it has no name."""
    head_ends = piece.find(b"\r\n\r\n", 0, _MAX_HEAD_BYTES)
    padding, *lines = piece[: max(head_ends, 0)].split(b"\r\n")
    if head_ends < 0 or padding.strip(b" \t"):
        raise BadRequest(_UNREADABLE)
    headers = {name.strip().lower(): value.strip() for name, _, value in (_text(line).partition(":") for line in lines)}
    if headers.get("content-type", "").lower().startswith("multipart/"):
        raise BadRequest("The form holds another form: send plain fields.")
    if headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        raise BadRequest("A part of the form is encoded: send the file itself, as it is.")
    disposition = headers.get("content-disposition", "")
    name = _parameter("Content-Disposition", disposition, "name")
    if name is None:
        return None
    is_file = _parameter("Content-Disposition", disposition, "filename") is not None
    return Part(name, is_file, piece[head_ends + 4 :])


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")


def _parameter(header: str, value: str, name: str) -> str | None:
    """A parameter of a header, without its quotes (RFC 2231 too). Raises BadRequest."""
    message = Message()
    try:
        message[header] = value
        found = message.get_param(name, None, header)
        return None if found is None else collapse_rfc2231_value(found)
    except ValueError:
        raise BadRequest(_UNREADABLE) from None
