"""The words of `vision-server finetune`: flags -> Options. Imports nothing that trains, so --help answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision_server.errors import BadSetting
from vision_server.finetune.options import BEST_BY, MODULES, PRECISIONS, Lora, Options

_RUN, _LORA = Options(), Lora()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What `command.main` takes, but for those that are settings."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "data", nargs="+", type=Path, help="JSON Lines, JSON, CSV, or folders of pictures", metavar="DATA"
    )
    data.add_argument("--prompt", default="", help="for rows that name none, such as .txt files: CAPTION, OD ...")
    data.add_argument("--check", action="store_true", help="only say what the data is and what is wrong with it")
    data.add_argument("--skip-faulty", action="store_true", help="learn from the good rows, whatever the others are")
    data.add_argument("--validation", type=Path, action="append", default=[], metavar="DATA", help="validate with this")
    data.add_argument("--validation-share", type=float, default=0.05, metavar="SHARE", help="else: of pictures [0.05]")

    run = parser.add_argument_group("run")
    run.add_argument("--out", type=Path, help="folder of the run (needed to train)", metavar="FOLDER")
    run.add_argument("--resume", action="store_true", help="go on with the run in --out as if it had never stopped")
    run.add_argument("--cpu", action="store_true", help="train on the CPU though there is a GPU")
    _number(run, "--epochs", "passes through the data")
    _number(run, "--max-steps", "steps in place of passes; 0: as --epochs says")
    _number(run, "--batch", "rows a step and device")
    _number(run, "--accumulate", "parts of this size before the weights are changed")
    _number(run, "--seed", "of the order, the matrices' beginning, dropout and the choice of validation")
    run.add_argument("--precision", default=_RUN.precision, choices=PRECISIONS, help=f"[{_RUN.precision}]")
    run.add_argument("--recompute", action="store_true", help="less memory for a third more time (checkpointing)")
    _number(run, "--workers", "threads that decode pictures")

    learning = parser.add_argument_group("learning")
    learning.add_argument("--full", action="store_true", help="train all weights in place of matrices of LoRA")
    learning.add_argument("--frozen-vision", action="store_true", help="leave the vision tower as it is")
    _number(learning, "--rank", "of the matrices", _LORA)
    _number(learning, "--alpha", "their weight is alpha / rank", _LORA)
    _number(learning, "--lora-dropout", "before the matrices", _LORA, "dropout")
    learning.add_argument("--rslora", action="store_true", help="their weight is alpha / sqrt(rank)")
    known = ", ".join(MODULES)
    learning.add_argument(
        "--modules", nargs="+", default=_LORA.modules, metavar="NAME", help=f"{known}, or ends of layers' names"
    )
    _number(learning, "--rate", "highest learning rate; 0: 1e-4, with --full 1e-5")
    _number(learning, "--last-rate", "share of it that is left at the end of the cosine")
    _number(learning, "--warmup", "steps in which the rate rises; 0: the twentieth part")
    _number(learning, "--weight-decay", "AdamW's")
    _number(learning, "--clip", "longest gradient")
    _number(learning, "--dropout", "of the text model")

    watched = parser.add_argument_group("validation")
    _number(watched, "--validate-every", "steps between validations; 0: once a pass")
    _number(watched, "--validation-answers", "rows that are answered and compared each time")
    watched.add_argument("--best-by", default=_RUN.best_by, choices=BEST_BY, help=f"what is kept [{_RUN.best_by}]")
    _number(watched, "--patience", "validations without a better one that end the run; 0: none do")
    _number(watched, "--save-every", "steps between saved states; 0: once a pass")


def _number(group: Any, flag: str, text: str, defaults: object = _RUN, name: str = "") -> None:
    default = getattr(defaults, name or flag[2:].replace("-", "_"))
    group.add_argument(flag, type=type(default), default=default, help=f"{text} [{default:g}]", metavar="N")


def options_of(flags: Mapping[str, Any]) -> Options:
    """Raises BadSetting for a number that means nothing."""
    for name, least, most in (
        *((name, 1, 10**9) for name in ("batch", "accumulate", "rank", "workers")),
        *((name, 0, 10**9) for name in ("max_steps", "warmup", "patience", "validate_every", "save_every")),
        *((name, 0, 1) for name in ("dropout", "lora_dropout", "last_rate", "validation_share")),
        *((name, 0, 1e9) for name in ("epochs", "rate", "weight_decay", "clip", "alpha", "validation_answers")),
    ):
        if not least <= flags[name] <= most:
            raise BadSetting(f"--{name.replace('_', '-')} {flags[name]:g}: it is from {least:g} to {most:g}.")
    lora = None
    if not flags["full"]:
        lora = Lora(flags["rank"], flags["alpha"], flags["lora_dropout"], flags["rslora"], tuple(flags["modules"]))
    own = {name: flags[name] for name in Options.__dataclass_fields__ if name in flags}
    return Options(**{**own, "lora": lora})
