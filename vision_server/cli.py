"""The command line: words and flags -> settings -> a command, each of which lies in a module of its own.

A fault of the user is one line on standard error: exit code 2 where the words or the settings are wrong, 1 where the
command could not do its work.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__, setting_texts, settings
from .errors import BadSetting

COMMANDS = {
    "serve": "Run the daemon (this is what happens when no command is given).",
    "demo": "Start a daemon of its own, ask it about the bundled pictures, draw the answers, give it back.",
    "caption": "Ask a running server about pictures, or (-i) be asked for picture and prompt in turn.",
    "models": "List the checkpoints that have a name, and what of them is on disk.",
    "pull": "Fetch a checkpoint from the hub ahead of time, or what has changed of it, and print its folder.",
    "finetune": "Teach a checkpoint from your own pictures and answers; writes an adapter or a checkpoint to serve.",
    "merge": "Write a checkpoint with an adapter merged in, or in another layout, as a folder of its own.",
    "evaluate": "Ask a checkpoint what you know the answers to, and print how right it is; compare two such runs.",
    "bulk": "Ask a checkpoint about many pictures, on one machine or a Ray cluster; answers as parquet or JSON Lines.",
    "doctor": "Print versions, device, memory, configuration and what is wrong; or (--server) how a running server is.",
}
_DEMO_FLAGS = ("model", "device", "dtype")
_HUB_FLAGS = ("cache_dir", "offline", "hf_endpoint", "download_stall_timeout_s")
_WORK_FLAGS = ("model", "adapter", "revision", *_HUB_FLAGS)
_TEACH_FLAGS = ("model", "revision", *_HUB_FLAGS)
_BULK_FLAGS = (
    *_WORK_FLAGS,
    "device",
    "dtype",
    "max_batch",
    "feature_cache_mb",
    "max_body_mb",
    "max_pixels_m",
    "prompts",
)
_TAKE_WORDS = ("bulk", "caption", "finetune", "pull")  # not flags only


class _Parser(argparse.ArgumentParser):
    """Errors in one line, with the nearest flag where one was misspelt."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")

    def parse_strictly(self, words: Sequence[str]) -> argparse.Namespace:
        chosen, rest = self.parse_known_args(words)
        if rest:
            flags = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(rest[0].partition("=")[0], flags, n=1)
            self.error(
                f"there is no {rest[0]}" + (f"; did you mean {near[0]}?" if near else f". See {self.prog} --help.")
            )
        return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words and words[0] in COMMANDS else "serve"
    if words and not words[0].startswith("-") and command not in _TAKE_WORDS:
        return _complain(f"there is no command {words[0]}; the commands are {', '.join(COMMANDS)}.", 2)
    flags = vars(_parser(command).parse_strictly(words))
    config: Path | None = flags.pop("config", None)
    try:
        return _run(command, flags, config)
    except BadSetting as error:
        return _complain(str(error), 2)
    except KeyboardInterrupt:  # before or after the time in which signals are handled
        return 130


def _parser(command: str) -> _Parser:
    columns = max(map(len, COMMANDS)) + 2
    listed = "\n".join(f"  {name:{columns}}{text}" for name, text in COMMANDS.items())
    parser = _Parser(
        prog="vision-server" if command == "serve" else f"vision-server {command}",
        description=COMMANDS[command],
        epilog=f"commands:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vision-server {__version__}")
    if command == "demo":
        setting_texts.add_flags(parser, _DEMO_FLAGS, {"model": "demo"})
        parser.add_argument(
            "--out", type=Path, help="where the drawn answers go (default: a fresh one)", metavar="FOLDER"
        )
    elif command == "caption":
        from .client import caption

        caption.add_flags(parser)
    else:
        _add_settings(parser, command)
    return parser


def _add_settings(parser: _Parser, command: str) -> None:
    parser.add_argument(
        "--config", type=Path, help="YAML file to read in place of the one in your home.", metavar="FILE"
    )
    if command == "pull":
        parser.add_argument("name", help="a name that `models` lists, or owner/name on the hub", metavar="NAME")
        parser.add_argument("--revision", help="a branch, a tag or a commit (default: as in the settings)")
    if command == "doctor":
        parser.add_argument("--server", help="look at the one that runs there, with VISION_API_KEY", metavar="URL")
    if command == "models":
        parser.add_argument("--json", action="store_true", help="as JSON, with everything that is known")
    if command == "merge":
        from . import merging

        parser.add_argument("--out", type=Path, required=True, help="the new folder", metavar="FOLDER")
        parser.add_argument("--layout", choices=merging.LAYOUTS, default="same", help="how it is laid out (same)")
        parser.add_argument("--dtype", choices=merging.DTYPES, default="float32", help="of the weights (float32)")
    if command == "evaluate":
        from .evaluation import flags

        flags.add_flags(parser)
    if command == "finetune":
        from .finetune.flags import add_flags

        add_flags(parser)
    if command == "bulk":
        from .bulk import flags as bulk_flags

        bulk_flags.add_flags(parser)
    asking = (*_WORK_FLAGS, "device", "dtype")
    shown = {
        "models": _HUB_FLAGS,
        "pull": _HUB_FLAGS,
        "merge": _WORK_FLAGS,
        "finetune": _TEACH_FLAGS,
        "evaluate": asking,
        "bulk": _BULK_FLAGS,
    }
    setting_texts.add_flags(parser, shown.get(command, settings.TABLE))


def _run(command: str, flags: dict[str, Any], config: Path | None) -> int:
    # Imported here, so that `--version` and `--help` answer at once.
    if command == "demo":
        from . import demo

        out = flags.pop("out")
        return demo.main({"model": "demo", **flags}, out=out)
    if command == "caption":
        from .client import caption

        return caption.main(**flags)
    if command == "models":
        from . import listing

        return listing.main(flags.pop("json"), flags, config)
    if command == "pull":
        from . import pull

        return pull.main(flags.pop("name"), flags.pop("revision"), flags, config)
    if command == "merge":
        from . import merging

        return merging.main(flags.pop("out"), flags.pop("layout"), flags.pop("dtype"), flags, config)
    if command == "evaluate":
        return _evaluate(flags, config)
    if command == "finetune":
        return _finetune(flags, config)
    if command == "bulk":
        return _bulk(flags, config)
    if command == "doctor":
        from . import doctor

        server = flags.pop("server")
        return doctor.main(flags, config, server)
    loaded = settings.load(flags, config)
    from . import daemon, log

    log.setup(loaded.settings.log_level, loaded.settings.log_format)
    return daemon.main(loaded.settings)


def _evaluate(flags: dict[str, Any], config: Path | None) -> int:
    from .evaluation.flags import taken

    settings.let_waiting_threads_sleep()
    try:
        from .evaluation import command
    except ModuleNotFoundError as error:
        return _complain(f"evaluate needs {error.name}, which is not installed: pip install 'vision-server[train]'.", 1)
    return command.main(taken(flags), flags, config)


def _finetune(flags: dict[str, Any], config: Path | None) -> int:
    settings.let_waiting_threads_sleep()
    try:
        from .finetune import command
    except ModuleNotFoundError as error:
        return _complain(f"finetune needs {error.name}, which is not installed: pip install 'vision-server[train]'.", 1)
    set_by_flags = {name: flags.pop(name) for name in _TEACH_FLAGS if name in flags}
    return command.main(flags, set_by_flags, config)


def _bulk(flags: dict[str, Any], config: Path | None) -> int:
    from .bulk.flags import taken

    settings.let_waiting_threads_sleep()
    try:
        from .bulk import command
    except ModuleNotFoundError as error:
        return _complain(f"bulk needs {error.name}, which is not installed: pip install 'vision-server[ray]'.", 1)
    return command.main(taken(flags), flags, config)


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"vision-server: {message}\n")
    return code
