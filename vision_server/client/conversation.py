"""`vision-server caption -i`: a person is asked for picture, prompt and what the prompt needs, again and again."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import VisionError
from .server import ClientError, Prompt, Server
from .sources import from_home, read_file
from .telling import bare, complain, draw, reason, tell
from .terminal import fit, lines, printable

_LEAVE = "quit"
_LIST = "?"
_FAULTS = (ClientError, VisionError, OSError)


class _Left(Exception):
    """The person has had enough."""


@dataclass
class Conversation:
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
        tell(
            f"vision-server at {self.server.url}, model {model}. Ctrl-D or {_LEAVE} leaves, {_LIST} lists the prompts."
        )
        self._list()
        with contextlib.suppress(_Left):
            while True:
                try:
                    self._turn()
                except _FAULTS as error:
                    complain(reason(error))
        return 0

    def _turn(self) -> None:
        path = self._ask_picture()
        data = read_file(path)
        self.picture = path
        prompt = self._ask_prompt()
        self.prompt = prompt.token
        text = _ask("text", words=True) if "text" in prompt.input else ""
        region = _ask("region (x1,y1,x2,y2)") if prompt.input == "region" else ""
        result = self.server.caption(data, prompt.token, text, region)
        tell("\n".join(lines(result)))
        draw(self.folder, path.stem, data, prompt.token, region, result)

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
        while (said := _ask(f"prompt [{bare(default)}]") or default) == _LIST:
            self._list()
        if said.isdecimal() and 1 <= int(said) <= len(self._advised()):
            return self._advised()[int(said) - 1]
        for prompt in self.prompts:
            if bare(prompt.token).casefold() == bare(said).casefold():
                return prompt
        raise ClientError(f"there is no prompt {printable(said)[:60]}; {_LIST} lists them.")

    def _advised(self) -> list[Prompt]:
        return [prompt for prompt in self.prompts if prompt.advised]

    def _list(self) -> None:
        names = [bare(prompt.token) for prompt in self._advised()]
        columns = max(map(len, names), default=0)
        for number, (name, prompt) in enumerate(zip(names, self._advised(), strict=True), 1):
            tell(f"{number:3} {fit(name, columns)}  {prompt.explanation}")


def picture_path(said: str) -> Path:
    """A path as people type, paste or drop it: in quotes, with `~`, as a file:// address, with blanks escaped."""
    said = said.strip()
    if len(said) > 1 and said[0] == said[-1] and said[0] in "'\"":
        said = said[1:-1]
    if said.lower().startswith("file://"):
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(said).path))
    path = from_home(said)
    if os.sep == "/" and "\\" in said and not path.exists():
        path = from_home(re.sub(r"\\(.)", r"\1", said))
    return path


def _ask(question: str, words: bool = False) -> str:
    """What is typed, stripped. Raises _Left at its end, or for the word that leaves unless free `words` are asked for.

    Nothing is asked where nobody reads the questions: with the lines piped in, only answers are printed.
    """
    try:
        said = input(f"{printable(question)}: " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt) as end:
        if sys.stdin.isatty():
            tell("")  # what comes next on this terminal begins a line
        if isinstance(end, KeyboardInterrupt):
            raise
        raise _Left from None
    if said.lower() == _LEAVE and not words:
        raise _Left
    return said
