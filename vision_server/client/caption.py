"""What `vision-server caption` does: asks a running server about pictures, or (`-i`) asks a person what to ask it.

Not here: starting a server, and how it is called (`server`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import settings
from .batch import Batch, Work
from .conversation import Conversation
from .files import Sidecars
from .metadata import Metadata, find_exiftool
from .records import FORMATS, Records
from .server import ClientError, Server, Unreachable
from .sources import from_home
from .sources import pictures as named_pictures
from .telling import complain, reason
from .terminal import never_fail_to_print

_MOST_AT_A_TIME = 256


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What `main` takes."""
    add = parser.add_argument
    add(
        "pictures",
        nargs="*",
        help="files, folders, patterns in quotes, http(s) addresses; - reads such names from standard input",
        metavar="PICTURE",
    )
    add("-i", "--interactive", action="store_true", help="ask for picture and prompt, again and again")
    add("-r", "--recursive", action="store_true", help="look below the folders that are named, too")
    add("--prompt", action="append", default=[], help="CAPTION, OD ... (default: the server's); may be said again")
    add("--text", default="", help="the text that a prompt such as CAPTION_TO_PHRASE_GROUNDING asks for")
    add("--region", default="", help="the box that a prompt asks for: x1,y1,x2,y2 in pixels")
    add("--save", help="draw boxes, quads and polygons into copies in this folder", metavar="FOLDER")
    add("--sidecar", help="write each answer beside its picture: txt makes cat.txt of cat.jpg", metavar="EXTENSION")
    add("--exif", action="store_true", help="write caption and tags into the picture's XMP, EXIF and IPTC")
    add("--no-original", action="store_true", help="keep no cat.jpg_original when --exif changes cat.jpg")
    add("--format", choices=FORMATS, help="print the answers as a JSON list, as JSON Lines or as CSV")
    add("--out", help="write them into this file (.json, .jsonl, .csv); go on with one that is there", metavar="FILE")
    add("--overwrite", action="store_true", help="ask again for what has its sidecar, its caption, its line in --out")
    together = "requests at a time (4), so that the server can answer several together"
    add("--parallel", type=int, default=4, help=together, metavar="N")
    patience = "seconds to keep asking while the server is full, loading or away (600)"
    add("--wait", type=float, default=600, help=patience, metavar="S")
    add("--server", help="its address (default: VISION_HOST, or this machine's)", metavar="URL")


def main(pictures: Sequence[str], interactive: bool, save: str | None, server: str | None, **flags: Any) -> int:
    """0 when every picture was answered, 1 when one was not or no server is there, 2 for words that do not go together.

    Each fault is one line on standard error.
    """
    never_fail_to_print()
    chosen = argparse.Namespace(**flags)
    if (wrong := _wrong(pictures, interactive, chosen)) is not None:
        return complain(wrong, 2)
    folder = None if save is None else from_home(save)
    address, key = settings.server_to_ask()
    with _signals_like_ctrl_c() as seen:
        try:
            if interactive:
                return Conversation(Server(server or address, key), folder, (chosen.prompt or [""])[0]).run()
            return _many(pictures, folder, server or address, key, chosen)
        except KeyboardInterrupt:
            if not seen:
                raise
            return 128 + seen[0]
        except Unreachable as error:
            how = "Start a server with `vision-server`, or name another with --server or VISION_HOST."
            return complain(f"{error} {how}")
        except BrokenPipeError:  # who reads has seen enough, as `head` does; what is still to be flushed goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (ClientError, OSError) as error:
            return complain(reason(error))


def _many(
    pictures: Sequence[str], folder: Path | None, address: str, key: str | None, chosen: argparse.Namespace
) -> int:
    """The exit code. Raises ClientError, OSError."""
    leaving = threading.Event()
    asked = Server(address, key, retry_for_s=chosen.wait, sleep=leaving.wait)
    out = None if chosen.out is None else from_home(chosen.out)
    form = chosen.format or (out.suffix[1:].lower() if out else None)
    prompts = list(dict.fromkeys(chosen.prompt)) or [""]
    sidecars = metadata = None
    if chosen.sidecar is not None:
        sidecars = Sidecars(chosen.sidecar, len(prompts) > 1, chosen.overwrite)
    if chosen.exif:
        metadata = Metadata(prompts, chosen.overwrite, not chosen.no_original, find_exiftool())
    stdin = sys.stdin.buffer if isinstance(sys.stdin, io.TextIOWrapper) else io.BytesIO()
    found = list(named_pictures(pictures, chosen.recursive, stdin))
    with contextlib.ExitStack() as stack:
        records = None
        if form is not None:
            records = stack.enter_context(contextlib.closing(Records(form, out, chosen.overwrite)))
        work = Work(
            asked, prompts, chosen.text, chosen.region, chosen.parallel, folder,
            sidecars, metadata, records, records_in_order=out is None,
        )  # fmt: skip
        return Batch(work, found, leaving).run()


@contextlib.contextmanager
def _signals_like_ctrl_c() -> Iterator[list[int]]:
    """SIGTERM and the end of the terminal tidy up, too: what was answered is written. The signals that came.

    One that is ignored (`nohup`) stays so.
    """
    seen: list[int] = []

    def end(number: int, _: object) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    ours = [number for number in known if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():  # signals are nobody else's business
        ours = []
    for number in ours:
        signal.signal(number, end)
    try:
        yield seen
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _wrong(pictures: Sequence[str], interactive: bool, chosen: argparse.Namespace) -> str | None:
    """Why the words do not go together, if so."""
    if interactive:
        writes = chosen.sidecar or chosen.exif or chosen.format or chosen.out
        if pictures or chosen.text or chosen.region:
            return "-i asks for the picture, the text and the region itself: leave them out."
        return "-i prints its answers: leave out what writes them." if writes or len(chosen.prompt) > 1 else None
    if not pictures:
        return "name a picture, or give -i to be asked for one."
    if not 1 <= chosen.parallel <= _MOST_AT_A_TIME:
        return f"--parallel takes a number from 1 to {_MOST_AT_A_TIME}."
    if not 0 <= chosen.wait < float("inf"):
        return "--wait takes a number of seconds."
    if chosen.out is not None and chosen.format is None and Path(chosen.out).suffix[1:].lower() not in FORMATS:
        return f"--out takes a file that ends in one of {', '.join(FORMATS)}; or say --format."
    if chosen.no_original and not chosen.exif:
        return "--no-original belongs to --exif."
    return None
