"""What the caption command says: answers on standard output, faults as one line on standard error; answers drawn."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from .terminal import Result, printable


def tell(text: str) -> None:
    """A line. Raises OSError."""
    put(f"{text}\n")


def put(text: str) -> None:
    """Raises OSError, which names standard output."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


def complain(message: str, code: int = 1) -> int:
    """Returns the exit code, so that a fault can be told and returned at once."""
    with contextlib.suppress(OSError):  # told where it was written
        sys.stdout.flush()
    sys.stderr.write(f"vision-server caption: {printable(message)}\n")
    sys.stderr.flush()
    return code


def bare(token: str) -> str:
    return token.strip().removeprefix("<").removesuffix(">")


def reason(error: Exception) -> str:
    """Why, for a person. An OSError is one of writing."""
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'} cannot be written ({error.strerror or type(error).__name__})."
    return str(error)


def draw(folder: Path | None, stem: str, data: bytes, prompt: str, region: str, result: Result) -> None:
    """Says where, if something is to be drawn. Raises VisionError, OSError."""
    if folder is None:
        return
    from .sketch import draw_answer, open_upright, save  # imported late: who draws nothing need not wait for Pillow

    drawn = draw_answer(open_upright(data), result, region)
    if drawn is not None:
        place = save(drawn, folder, f"{stem}-{bare(prompt)}" if prompt else stem)
        sys.stderr.write(f"drawn: {printable(str(place))}\n")
