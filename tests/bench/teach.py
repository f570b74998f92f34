"""The embedded checkpoint learns a new caption style and a new kind of pictogram, as a person would teach it.

`python -m tests.bench.teach` draws the lessons, checks them, asks what the checkpoint knows before, trains an adapter,
asks the same again, merges the adapter, and serves it beside the checkpoint; all by the public commands, each in a
process of its own. Writes results/teach.json. Everything lies in `--folder`; called again, it goes on where it stopped.
`--short` is the whole way with few pictures and steps, in about a minute; it learns a little, and writes no result.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.bench.daemons import end_orderly, running
from tests.bench.machine import circumstances, write_result
from tests.bench.teach_figures import figures, missed, rows_of
from tests.bench.teach_lessons import (
    BRIEF,
    FOUND,
    HATS,
    LESSONS,
    OLD,
    STYLE,
    STYLED,
    VALIDATION,
    WHOLE,
    Plan,
    follows,
    write_lessons,
)
from vision_server.evaluation import runs
from vision_server.evaluation.runs import Row, Run
from vision_server.tasks import answer

MODEL = "demo"
RUN, ADAPTER = "taught", "taught/adapter"
MERGED = ("native", "original")
PACKAGES = ("torch", "transformers", "peft", "accelerate")
_LAST_STEP_S = 300  # which is finished and saved
DEVICE = ("--device", "cpu", "--dtype", "float32")
TOGETHER = ("--batch", "32")


@dataclass(frozen=True)
class Course:
    """`training` are the flags of `finetune`; `merged` and `served` say how many of the questions with hats are asked
    of the merged checkpoints, and over HTTP."""

    plan: Plan
    training: tuple[str, ...]
    merged: int
    served: int


_TRAINING = tuple("--dropout 0 --lora-dropout 0 --cpu".split())
LONG_WAY = Course(
    WHOLE,
    tuple("--max-steps 1200 --batch 24 --rate 8e-4 --validate-every 300 --save-every 50".split()) + _TRAINING,
    merged=40,
    served=20,
)
SHORT_WAY = Course(
    BRIEF,
    tuple("--max-steps 60 --batch 8 --rate 3e-3".split()) + _TRAINING,
    merged=8,
    served=4,
)


class Stages:
    """What has been done in `folder`, with the seconds it took: of the clock, and of the processor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "stages.json"
        self.done: dict[str, dict[str, Any]] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def command(self, name: str, *words: str) -> None:
        """`vision-server WORDS` in the folder, unless it is done. Raises CalledProcessError."""
        before = self.done.get(name, {"s": 0.0, "processor_s": 0.0})
        if before.get("command"):
            return
        sys.stdout.write(f"$ vision-server {shlex.join(words)}\n")
        sys.stdout.flush()
        began_s, worked_s = time.monotonic(), _children_s()
        code = -1
        try:
            code = _call([sys.executable, "-m", "vision_server", *words], self.folder)
        finally:
            took = {"s": time.monotonic() - began_s, "processor_s": _children_s() - worked_s}
            self.done[name] = {key: round(before[key] + seconds, 2) for key, seconds in took.items()}
            if code == 0:
                self.done[name]["command"] = f"vision-server {shlex.join(words)}"
            self._path.write_text(json.dumps(self.done, indent=1))
        if code:
            raise subprocess.CalledProcessError(code, ["vision-server", *words])


def _call(command: list[str], folder: Path) -> int:
    """Its exit code. What ends this process ends the command, too, with one signal, so that a run is saved."""
    with subprocess.Popen(command, cwd=folder, start_new_session=True) as process:  # Ctrl-C is a second one otherwise
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait(_LAST_STEP_S)
            raise


def _children_s() -> float:
    """Processor seconds of the processes that have ended; where the system does not tell, 0."""
    told = os.times()
    return told.children_user + told.children_system


def teach(folder: Path, course: Course) -> dict[str, Any]:
    """All of it; the figures. Raises CalledProcessError where a command fails, AssertionError where answers differ."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / OLD).exists():  # the last that is written
        write_lessons(folder, course.plan)
    stages = Stages(folder)
    resumed = ("--resume",) if (folder / RUN / "state.pt").exists() else ()
    data = (*TOGETHER, "--data", STYLE, HATS, OLD)
    adapted = ("--model", MODEL, "--adapter", ADAPTER)
    stages.command("check", "finetune", LESSONS, "--validation", VALIDATION, "--model", MODEL, "--check", "--cpu")
    stages.command("evaluate before", "evaluate", "--model", MODEL, *DEVICE, *data, "--json", "before.json")
    learned = (LESSONS, "--validation", VALIDATION, "--validation-answers", "100", "--model", MODEL, "--out", RUN)
    stages.command("finetune", "finetune", *learned, *course.training, *resumed)
    stages.command("evaluate after", "evaluate", *adapted, *DEVICE, *data, "--json", "after.json")
    before, after = (runs.read(folder / name) for name in ("before.json", "after.json"))
    reached = figures(before, after)
    for layout in MERGED:
        merged = f"merged-{layout}"
        stages.command(f"merge {layout}", "merge", *adapted, "--layout", layout, "--out", merged)
        asked = (*TOGETHER, "--data", HATS, "--limit", str(course.merged), "--json", f"{merged}.json")
        stages.command(f"evaluate {layout}", "evaluate", "--model", merged, *DEVICE, *asked)
        reached[f"merged_{layout}"] = same(runs.read(folder / f"{merged}.json"), after)
    reached["served"] = served(folder, after, course.served)
    reached["seconds"] = {name: {key: one[key] for key in ("s", "processor_s")} for name, one in stages.done.items()}
    reached["commands"] = [one["command"] for one in stages.done.values()]
    return reached


def same(merged: Run, after: Run) -> dict[str, int]:
    """How many of the raw answers of a merged checkpoint are those of the adapter, to the last token."""
    unmerged = {row.key: row.said for row in after.rows}
    return {"asked": len(merged.rows), "same": sum(row.said == unmerged[row.key] for row in merged.rows)}


def served(folder: Path, after: Run, count: int) -> dict[str, int]:
    """One daemon serves the checkpoint and, beside it, the one with the adapter; both are asked over HTTP.

    `right` counts the answers of the latter that are those of the evaluation, `styled` the captions of it that are in
    the new style, `base_styled` those of the plain one that are.
    """
    config = folder / "served.yaml"
    adapter = json.dumps(str((folder / ADAPTER).resolve()))  # which YAML reads, too
    config.write_text(
        f"model: {MODEL}\nmodels:\n  {MODEL}:\n  taught: {{model: {MODEL}, adapter: {adapter}}}\n", encoding="utf-8"
    )
    captions, found = rows_of(after, STYLE, STYLED)[:count], rows_of(after, HATS, FOUND)[:count]
    with running("--config", str(config), *DEVICE) as daemon:

        def ask(model: str, row: Row) -> Any:
            body = (folder / "pictures" / row.picture).read_bytes()
            status, said = daemon.call(f"/process_image?model={model}&prompt={quote(row.prompt)}", body)
            assert status == 200, said
            return said["result"]

        base = [ask(MODEL, row) for row in captions]
        taught = [(row, ask("taught", row)) for row in (*captions, *found)]
    return {
        "asked": len(taught),
        "right": sum(said == answer(row.prompt, row.said, row.size) for row, said in taught),
        "captions": len(captions),
        "styled": sum(follows(said) for row, said in taught if row.prompt == STYLED),
        "base_styled": sum(map(follows, base)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Teach the embedded checkpoint a style and a pictogram, and serve it.")
    parser.add_argument("--folder", type=Path, default=Path("runs/teach"), help="where all of it lies [%(default)s]")
    parser.add_argument("--short", action="store_true", help="the whole way in a minute, which learns a little")
    args = parser.parse_args()
    end_orderly()
    try:
        reached = teach(args.folder, SHORT_WAY if args.short else LONG_WAY)
    except (subprocess.CalledProcessError, KeyboardInterrupt) as error:
        sys.stderr.write(f"stopped ({error or 'by you'}); called again, it goes on from here.\n")
        return 1
    shown = {name: value for name, value in reached.items() if name not in ("seconds", "commands")}
    sys.stdout.write(f"{json.dumps(shown, indent=2)}\n")
    if args.short:
        return 0
    faults = missed(reached)
    sys.stdout.write("".join(f"{fault}\n" for fault in faults))
    about = circumstances("python -m tests.bench.teach", *PACKAGES)
    sys.stdout.write(f"{write_result('teach', {**about, **reached})}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
