"""What `vision-server merge` does: a checkpoint, with an adapter merged in, as a folder of its own.

It answers as the checkpoint with the adapter does, token for token: the weights are written as they were computed, in
float32, unless another dtype is asked for. Without an adapter it only writes the checkpoint in another layout or dtype.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import settings
from .errors import BadSetting, VisionError
from .pull import Bar, folder_of
from .served import alone

LAYOUTS = ("same", "native", "original")
DTYPES = ("float32", "float16", "bfloat16")


def main(out: Path, layout: str, dtype: str, flags: Mapping[str, Any], config: Path | None) -> int:
    """Prints the folder. 1 on failure; raises BadSetting."""
    chosen = settings.load(flags, config).settings
    model = alone(chosen.model, chosen)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BadSetting(f"--out {out}: this is there already; name a new folder.")
    part = out.with_name(f".{out.name}.part")
    try:
        source = folder_of(model.checkpoint, chosen)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        _merge(source, model.adapter, part, layout, dtype)
        if out.exists():
            out.rmdir()
        part.replace(out)
    except (VisionError, OSError, KeyboardInterrupt) as error:
        shutil.rmtree(part, ignore_errors=True)
        sys.stderr.write(f"vision-server merge: {_why(error)}\n")
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    sys.stdout.write(f"{out}\n")
    return 0


def _why(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"cannot write the checkpoint ({error.strerror or type(error).__name__})."
    return str(error) or "stopped; nothing was written."


def _merge(source: Path, adapter: Path | None, out: Path, layout: str, dtype: str) -> None:
    from .engine.saving import merge_checkpoint  # brings torch, which the check of the flags does without

    with Bar() as bar:
        merge_checkpoint(source, adapter, out, None if layout == "same" else layout, dtype, bar.report)
