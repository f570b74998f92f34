"""The words of `vision-server evaluate`. Imports nothing that asks or counts, so that --help answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

NAMES = ("data", "compare", "against", "json", "prompt", "skip_faulty", "limit", "beams", "batch", "resamples", "seed")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What `command.main` takes, but for those of the settings."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, nargs="+", help="files and folders, as finetune takes them", metavar="DATA")
    what.add_argument("--compare", type=Path, nargs=2, help="two files of --json; nobody is asked", metavar="FILE")
    parser.add_argument("--against", type=Path, help="a file of --json to compare this run with", metavar="FILE")
    parser.add_argument("--json", type=Path, help="write figures and answers here, too", metavar="FILE")
    parser.add_argument("--prompt", default="", help="for rows that name none")
    parser.add_argument("--skip-faulty", action="store_true", help="leave out the rows that cannot be asked")
    _number(parser, "--limit", 0, "only the first questions; 0: all", least=0)
    _number(parser, "--beams", 3, "beams of the search")
    _number(parser, "--batch", 8, "questions answered together")
    _number(parser, "--resamples", 1000, "draws for the intervals of a comparison")
    _number(parser, "--seed", 0, "of these draws", least=0)


def _number(parser: argparse.ArgumentParser, flag: str, default: int, text: str, least: int = 1) -> None:
    def parse(word: str) -> int:
        value = int(word)
        if value < least:
            raise argparse.ArgumentTypeError(f"{word} is less than {least}")
        return value

    parser.add_argument(flag, type=parse, default=default, help=f"{text} [{default}]", metavar="NUMBER")


def taken(flags: dict[str, Any]) -> dict[str, Any]:
    """Those of `add_flags`, out of `flags`."""
    return {name: flags.pop(name) for name in NAMES}
