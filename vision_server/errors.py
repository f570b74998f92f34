"""The error tree: code, HTTP status and a message written for the client. Standard library only.

Errors are data. They are raised anywhere, carried over the worker's pipe as (code, message), and rendered once, by the
dialect that answers. A message says what is wrong and what to do; it holds no path, no address and no library's text.
"""

from __future__ import annotations

from typing import ClassVar


class VisionError(Exception):
    """Base of everything a client may be told. `retry_after_s` becomes the Retry-After header when it is set."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BadRequest(VisionError):
    code, status = "bad_request", 400


class UnknownPrompt(VisionError):
    code, status = "unknown_prompt", 400


class BadInput(VisionError):
    """A prompt without its text or region, an input where none belongs, a region outside the picture."""

    code, status = "bad_input", 400


class BadOption(VisionError):
    code, status = "bad_option", 400


class PromptTooLong(VisionError):
    code, status = "prompt_too_long", 400


class Unauthorized(VisionError):
    code, status = "unauthorized", 401


class Forbidden(VisionError):
    code, status = "forbidden", 403


class NotFound(VisionError):
    code, status = "not_found", 404


class ModelNotFound(VisionError):
    code, status = "model_not_found", 404


class MethodNotAllowed(VisionError):
    code, status = "method_not_allowed", 405


class BodyTooSlow(VisionError):
    code, status = "body_too_slow", 408


class Busy(VisionError):
    code, status = "busy", 409


class TooLarge(VisionError):
    """Body or pixel count over the limit."""

    code, status = "too_large", 413


class BadImage(VisionError):
    """Not an image we decode, or a broken one."""

    code, status = "bad_image", 415


class ImageRefused(VisionError):
    """A side of 0 or beyond the limit, or an image URL refused by policy."""

    code, status = "image_refused", 422


class FetchFailed(VisionError):
    """A picture's address that is allowed and gave no picture. A 4xx even where the other server was slow or broken:
    on a 5xx clients ask again, several times, and would have us ask it as often."""

    code, status = "fetch_failed", 422


class QueueFull(VisionError):
    code, status = "queue_full", 429


class TooManyRequests(VisionError):
    """One client has too many requests here, or asks too often."""

    code, status = "too_many_requests", 429


class WorkerCrash(VisionError):
    """The worker died twice while it held only this request."""

    code, status = "worker_crash", 500


class CannotServe(VisionError):
    """Draining, no device, or nothing to load."""

    code, status = "unavailable", 503


class LoadFailed(CannotServe):
    code = "load_failed"


class CheckpointError(LoadFailed):
    """A checkpoint that is missing, damaged or not Florence-2; the message names the file and the key."""

    code = "bad_checkpoint"


class OutOfMemory(CannotServe):
    code = "out_of_memory"


class DeadlinePassed(VisionError):
    code, status = "timeout", 504


class BadSetting(VisionError):
    """A setting, flag or environment variable that cannot be used. For the operator, never sent to a client."""

    code = "bad_setting"


def every_error(root: type[VisionError] = VisionError) -> list[type[VisionError]]:
    """`root` and all that are derived from it."""
    return [root, *(leaf for child in root.__subclasses__() for leaf in every_error(child))]


def from_code(code: str, message: str) -> VisionError:
    """The error that `code` names, as sent by the worker; an unknown code is an internal error."""
    return _BY_CODE.get(code, VisionError)(message)


_BY_CODE = {error.code: error for error in every_error()}
