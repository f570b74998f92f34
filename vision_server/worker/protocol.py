"""What the daemon and its worker say to each other, and how it is framed. Bytes in, values out: no I/O, no state.

    daemon                                   worker (child)
      | -- Expect(directory) -----------------> |  to one that is started ahead: what may be asked of it
      | -- Hello(checkpoint, device, ...) ----> |  once
      | <-- Progress(phase, done, total) ------ |  while importing and loading: each one is an advance
      | <-- Ready(device, dtype, slots, ...) -- |  loaded; again whenever `slots` changes
      |          or Failed(0, code, message)    |  the load failed; the worker ends
      | -- Run(id, task, options) + picture --> |  up to `slots` of them; joins the running decode
      | <-- Progress("step", ...) ------------- |  from the thread that steps, so that a hang shows
      | -- Cancel(id) ------------------------> |  may cross the answer
      | <-- Done(id, text, ...)                 |
      |     or Failed(id, code, message) ------ |  exactly one of the two for each Run, cancelled ones too
      | -- Stop() ----------------------------> |  ends at once; so does end-of-file, whatever is going on

A frame is `magic(4) header_bytes(u32) payload_bytes(u32) header payload`, big-endian. The header is a JSON object of
the frame's fields and its kind; only Run has a payload, the encoded picture. JSON and not pickle, so that a worker that
a hostile picture took over can send the daemon nothing but values. The magic number turns stray output into an error
at its first bytes, where a bare length would have been waited for.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, get_args

_MAGIC = b"vsw1"
_PREFIX = struct.Struct(">4sII")
MAX_HEADER_BYTES = 4 << 20  # an answer has at most a few thousand tokens; a megabyte of JSON is already absurd
MAX_PAYLOAD_BYTES = 1 << 30  # above the largest body the settings allow (1,024 MiB)

LOAD = 0  # the id in a Failed that is about the load and not about a request


class ProtocolError(Exception):
    """The other side did not speak this protocol. Never sent to a client."""


@dataclass(frozen=True)
class Options:
    """How to decode, as the engine's own `Options` means it; the API checks the ranges before a request is queued."""

    num_beams: int = 3
    max_new_tokens: int | None = None
    no_repeat_ngram_size: int = 3
    length_penalty: float = 1.0
    early_stopping: bool = True


DEFAULT_OPTIONS = Options()


@dataclass(frozen=True)
class Hello:
    """What to load and within which limits. `max_batch` and `threads` are chosen by the worker when None.

    Without a `directory` the files come from `repository` at `revision` of the hub, into the folder `cache`, unless
    they are there; what is None of `token`, `cache` and `endpoint` is the hub library's to know. `adapter` is a folder.
    `feature_cache_bytes` bounds the image features that are kept for a picture's next prompt; 0 keeps none.
    """

    directory: str | None
    model: str
    device: str = "auto"
    dtype: str = "auto"
    max_batch: int | None = None
    threads: int | None = None
    max_pixels: int = 50_000_000
    max_side: int = 16_384
    log_level: str = "info"
    repository: str | None = None
    revision: str = "main"
    token: str | None = field(default=None, repr=False)
    cache: str | None = None
    offline: bool = False
    endpoint: str | None = None
    stall_timeout_s: float = 60.0
    adapter: str | None = None
    feature_cache_bytes: int = 64 << 20


@dataclass(frozen=True)
class Expect:
    """The Hello that comes, if one does, will probably name this directory."""

    directory: str


@dataclass(frozen=True)
class Ready:
    """Loaded. `slots` is how many requests the worker takes at once; `memory_bytes` is device memory it holds."""

    model: str
    device: str
    dtype: str
    slots: int
    memory_bytes: int = 0


@dataclass(frozen=True)
class Progress:
    """`done` of `total` bytes of a load phase; in phase "step", rows running. `memory_bytes` is device memory held."""

    phase: str
    done: int = 0
    total: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Run:
    """One request. `id` is unique for this worker; `request_id` is for logs."""

    id: int
    request_id: str
    task: str
    text: str = ""
    region: str | tuple[float, ...] | None = None
    options: Options = DEFAULT_OPTIONS
    image: bytes = b""


@dataclass(frozen=True)
class Done:
    """The answer to `Run(id)`: raw text, size of the upright picture in pixels, counts and seconds; and the phrases
    that the checkpoint would have an answer of grounding leave out, since only the worker reads a checkpoint."""

    id: int
    text: str
    width: int
    height: int
    finish_reason: str
    prompt_tokens: int
    new_tokens: int
    decode_s: float
    encode_s: float
    generate_s: float
    banned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """`Run(id)` failed, or the load when id is LOAD. `code` names one of `errors`; the message is for the client."""

    id: int
    code: str
    message: str

    CANCELLED: ClassVar[str] = "cancelled"  # the code that answers a Cancel


@dataclass(frozen=True)
class Cancel:
    """Forget `Run(id)`; it is answered all the same, by Failed or by the Done that was on its way."""

    id: int


@dataclass(frozen=True)
class Stop:
    """End now."""


Frame = Hello | Expect | Ready | Progress | Run | Done | Failed | Cancel | Stop
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Frame)}


def encode(frame: Frame) -> bytes:
    """The frame as bytes. Raises ProtocolError when it is over the limits, which is a fault of the sender."""
    values = {f.name: getattr(frame, f.name) for f in fields(frame)}
    payload: bytes = values.pop("image", b"")
    if "options" in values:
        values["options"] = asdict(values["options"])
    header = json.dumps({"kind": type(frame).__name__, **values}).encode("ascii")
    if len(header) > MAX_HEADER_BYTES or len(payload) > MAX_PAYLOAD_BYTES:
        raise ProtocolError(f"a {type(frame).__name__} of {len(header)} + {len(payload)} bytes is over the limit")
    return _PREFIX.pack(_MAGIC, len(header), len(payload)) + header + payload


class Decoder:
    """Cuts a byte stream into frames, however the bytes were split on their way."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def partial(self) -> bool:
        """Whether the stream, should it end here, ends inside a frame."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Every frame that is complete now. Raises ProtocolError; the stream is of no use after it."""
        self._buffer += data
        while (end := self._end()) is not None:
            header_bytes = _PREFIX.unpack_from(self._buffer)[1]
            header = bytes(self._buffer[_PREFIX.size : _PREFIX.size + header_bytes])
            payload = bytes(self._buffer[_PREFIX.size + header_bytes : end])
            del self._buffer[:end]
            yield _parse(header, payload)

    def _end(self) -> int | None:
        seen = self._buffer[: len(_MAGIC)]
        if seen != _MAGIC[: len(seen)]:
            raise ProtocolError(f"expected a frame, got {bytes(self._buffer[:40])!r}")
        if len(self._buffer) < _PREFIX.size:
            return None
        _, header_bytes, payload_bytes = _PREFIX.unpack_from(self._buffer)
        if header_bytes > MAX_HEADER_BYTES or payload_bytes > MAX_PAYLOAD_BYTES:
            raise ProtocolError(f"a frame of {header_bytes} + {payload_bytes} bytes is over the limit")
        end = _PREFIX.size + int(header_bytes) + int(payload_bytes)
        return end if len(self._buffer) >= end else None


def _parse(header: bytes, payload: bytes) -> Frame:
    try:
        values = json.loads(header)
        kind = _KINDS[values.pop("kind")]
        if kind is Run:
            values.update(image=payload, options=Options(**values["options"]))
            if isinstance(values["region"], list):
                values["region"] = tuple(values["region"])
        elif payload:
            raise ProtocolError(f"a {kind.__name__} has no payload")
        elif kind is Done:
            values["banned"] = tuple(values.get("banned", ()))
        frame: Frame = kind(**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # Not a word of it: this is logged, and what was asked or answered must not be.
        raise ProtocolError(f"not a frame: {type(error).__name__} in a header of {len(header)} bytes") from error
    _check_types(frame)
    return frame


_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "float": (int, float),
    "int | None": (int, type(None)),
}


def _check_types(frame: Frame) -> None:
    """A worker's numbers and texts are what they claim to be, so that the daemon can count on them."""
    for f in fields(frame):
        value = getattr(frame, f.name)
        wanted = _PLAIN.get(str(f.type))
        wrong = wanted is not None and (not isinstance(value, wanted) or isinstance(value, bool))
        if wrong or (f.name == "banned" and not all(isinstance(phrase, str) for phrase in value)):
            raise ProtocolError(f"{type(frame).__name__}.{f.name} is a {type(value).__name__}, expected {f.type}")
