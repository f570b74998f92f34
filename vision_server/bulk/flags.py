"""The words of `vision-server bulk`. Imports neither Ray nor torch, so that --help answers at once."""

from __future__ import annotations

import argparse
from typing import Any

FORMATS = ("parquet", "jsonl")
NAMES = (
    "source", "dest", "prompt", "text", "num_beams", "max_new_tokens", "field", "key", "format", "part_pictures",
    "retry_failed", "engines", "address",
)  # fmt: skip


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What `command.main` takes, but for those of the settings."""
    add = parser.add_argument
    add("source", help="a folder, a pattern in quotes, a .tar or .parquet; a path or an fsspec URL", metavar="SOURCE")
    add("dest", help="the folder for the answers, a path or an fsspec URL; goes on with what is there", metavar="DEST")
    add("--prompt", action="append", required=True, help="CAPTION, OD ...; may be said again")
    add("--text", default="", help="for those of the prompts that take a text")
    _number(parser, "--num-beams", 3, "beams of the search", most=8)
    _number(parser, "--max-new-tokens", None, "the longest answer, in tokens (1024, or what the model can)")
    add("--field", help="the column of a parquet file, or the extension in a tar, that holds the picture", metavar="F")
    add("--key", help="the column of a parquet file that names a picture (the number of its row)", metavar="COLUMN")
    add("--format", choices=FORMATS, help="of the answers [parquet, or as in DEST]")
    _number(parser, "--part-pictures", None, "pictures in one file of answers [128, or as in DEST]")
    add("--retry-failed", action="store_true", help="ask again for what has an error in DEST")
    _number(parser, "--engines", None, "engines at work [one for each GPU; else one for every four cores]")
    add("--address", help="of a Ray cluster that runs (HOST:PORT, auto); this machine is part of it", metavar="ADDRESS")


def _number(parser: argparse.ArgumentParser, flag: str, default: int | None, text: str, most: int = 1 << 20) -> None:
    def parse(word: str) -> int:
        value = int(word)
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"{word} is not between 1 and {most}")
        return value

    shown = f" [{default}]" if default is not None else ""
    parser.add_argument(flag, type=parse, default=default, help=f"{text}{shown}", metavar="NUMBER")


def taken(flags: dict[str, Any]) -> dict[str, Any]:
    """Those of `add_flags`, out of `flags`."""
    return {name: flags.pop(name) for name in NAMES}
