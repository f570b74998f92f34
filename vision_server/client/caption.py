"""What `vision-server caption` does: asks a running server about pictures, or (`-i`) asks a person what to ask it.

Not here: starting a server, and how it is called (`server`).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import settings
from ..errors import VisionError
from .server import ClientError, Prompt, Server, Unreachable
from .terminal import Result, fit, lines, never_fail_to_print, one_line, printable

_LEAVE = "quit"
_LIST = "?"
_FAULTS = (ClientError, VisionError, OSError)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What `main` takes."""
    parser.add_argument("pictures", nargs="*", help="picture files", metavar="PICTURE", type=Path)
    parser.add_argument("-i", "--interactive", action="store_true", help="ask for picture and prompt, again and again")
    parser.add_argument("--prompt", default="", help="CAPTION, OD ... (default: the server's)")
    parser.add_argument(
        "--text", default="", help="the text that a prompt such as CAPTION_TO_PHRASE_GROUNDING asks for"
    )
    parser.add_argument("--region", default="", help="the box that a prompt asks for: x1,y1,x2,y2 in pixels")
    parser.add_argument("--save", help="draw boxes, quads and polygons into copies in this folder", metavar="FOLDER")
    parser.add_argument("--server", help="its address (default: VISION_HOST, or this machine's)", metavar="URL")


def main(
    pictures: Sequence[Path],
    interactive: bool,
    prompt: str,
    text: str,
    region: str,
    save: str | None,
    server: str | None,
) -> int:
    """0 when every picture was answered, 1 when one was not or no server is there, 2 for words that do not go together.

    Each fault is one line on standard error.
    """
    never_fail_to_print()
    if interactive and (pictures or text or region):
        return _complain("-i asks for the picture, the text and the region itself: leave them out.", 2)
    if not (interactive or pictures):
        return _complain("name a picture, or give -i to be asked for one.", 2)
    folder = None if save is None else Path(save).expanduser()
    address, key = settings.server_to_ask()
    try:
        asked = Server(server or address, key)
        if interactive:
            return _Conversation(asked, folder, prompt).run()
        return _caption_each(asked, pictures, prompt, text, region, folder)
    except Unreachable as error:
        return _complain(f"{error} Start a server with `vision-server`, or name another with --server or VISION_HOST.")
    except ClientError as error:
        return _complain(str(error))


def _caption_each(
    server: Server, pictures: Sequence[Path], prompt: str, text: str, region: str, folder: Path | None
) -> int:
    """The answers on standard output: of one picture in its own lines, of several a line each, after their names."""
    code = 0
    for path in pictures:
        try:
            data = _read(path)
        except ClientError as error:
            code = _complain(str(error))
            continue
        try:
            result = server.caption(data, prompt, text, region)
            told = lines(result) if len(pictures) == 1 else [f"{printable(str(path))}: {one_line(result)}"]
            _tell("\n".join(told))
            _draw(folder, path, data, prompt, region, result)
        except Unreachable:
            raise
        except _FAULTS as error:
            code = _complain(f"{path}: {_reason(error)}")
    return code


class _Left(Exception):
    """The person has had enough."""


@dataclass
class _Conversation:
    """Picture, prompt and what the prompt needs, asked for in turn; what was said last is offered again."""

    server: Server
    folder: Path | None
    prompt: str
    picture: Path | None = None
    prompts: list[Prompt] = field(default_factory=list)

    def run(self) -> int:
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")  # being there, it lets `input` edit and remember; Windows has its own
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="surrogateescape")  # a path may hold any bytes
        model, self.prompts = self.server.call("/model"), self.server.prompts()
        _tell(
            f"vision-server at {self.server.url}, model {model}. Ctrl-D or {_LEAVE} leaves, {_LIST} lists the prompts."
        )
        self._list()
        with contextlib.suppress(_Left):
            while True:
                try:
                    self._turn()
                except _FAULTS as error:
                    _complain(_reason(error))
        return 0

    def _turn(self) -> None:
        path = self._ask_picture()
        data = _read(path)
        self.picture = path
        prompt = self._ask_prompt()
        self.prompt = prompt.token
        text = _ask("text", words=True) if "text" in prompt.input else ""
        region = _ask("region (x1,y1,x2,y2)") if prompt.input == "region" else ""
        result = self.server.caption(data, prompt.token, text, region)
        _tell("\n".join(lines(result)))
        _draw(self.folder, path, data, prompt.token, region, result)

    def _ask_picture(self) -> Path:
        while True:
            said = _ask("picture" if self.picture is None else f"picture [{self.picture.name}]")
            if said == _LIST:
                self._list()
            elif said:
                return picture_path(said)
            elif self.picture is not None:
                return self.picture

    def _ask_prompt(self) -> Prompt:
        """By number, or by name with or without <>, in any letter case. Raises ClientError for an unknown one."""
        default = self.prompt or self.prompts[0].token
        while (said := _ask(f"prompt [{_bare(default)}]") or default) == _LIST:
            self._list()
        if said.isdecimal() and 1 <= int(said) <= len(self._advised()):
            return self._advised()[int(said) - 1]
        for prompt in self.prompts:
            if _bare(prompt.token).casefold() == _bare(said).casefold():
                return prompt
        raise ClientError(f"there is no prompt {printable(said)[:60]}; {_LIST} lists them.")

    def _advised(self) -> list[Prompt]:
        return [prompt for prompt in self.prompts if prompt.advised]

    def _list(self) -> None:
        names = [_bare(prompt.token) for prompt in self._advised()]
        columns = max(map(len, names), default=0)
        for number, (name, prompt) in enumerate(zip(names, self._advised(), strict=True), 1):
            _tell(f"{number:3} {fit(name, columns)}  {prompt.explanation}")


def picture_path(said: str) -> Path:
    """A path as people type, paste or drop it: in quotes, with `~`, as a file:// address, with blanks escaped."""
    said = said.strip()
    if len(said) > 1 and said[0] == said[-1] and said[0] in "'\"":
        said = said[1:-1]
    if said.lower().startswith("file://"):
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(said).path))
    path = Path(said).expanduser()
    if os.sep == "/" and "\\" in said and not path.exists():
        path = Path(re.sub(r"\\(.)", r"\1", said)).expanduser()
    return path


def _ask(question: str, words: bool = False) -> str:
    """What is typed, stripped. Raises _Left at its end, or for the word that leaves unless free `words` are asked for.

    Nothing is asked where nobody reads the questions: with the lines piped in, only answers are printed.
    """
    try:
        said = input(f"{printable(question)}: " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt) as end:
        if sys.stdin.isatty():
            _tell("")  # what comes next on this terminal begins a line
        if isinstance(end, KeyboardInterrupt):
            raise
        raise _Left from None
    if said.lower() == _LEAVE and not words:
        raise _Left
    return said


def _read(path: Path) -> bytes:
    """A picture's file. Raises ClientError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ClientError(f"there is no file {path}.") from None
    except IsADirectoryError:
        raise ClientError(f"{path} is a folder.") from None
    except (OSError, ValueError) as error:
        raise ClientError(f"{path} cannot be read ({type(error).__name__}).") from None


def _draw(folder: Path | None, path: Path, data: bytes, prompt: str, region: str, result: Result) -> None:
    """Says where, if something is to be drawn. Raises VisionError, OSError."""
    if folder is None:
        return
    from .sketch import draw_answer, open_upright, save  # imported late: who draws nothing need not wait for Pillow

    drawn = draw_answer(open_upright(data), result, region)
    if drawn is not None:
        place = save(drawn, folder, f"{path.stem}-{_bare(prompt)}" if prompt else path.stem)
        sys.stderr.write(f"drawn: {printable(str(place))}\n")


def _bare(token: str) -> str:
    return token.strip().removeprefix("<").removesuffix(">")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'} cannot be written ({error.strerror or type(error).__name__})."
    return str(error)


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _complain(message: str, code: int = 1) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"vision-server caption: {printable(message)}\n")
    sys.stderr.flush()
    return code
