"""What `vision-server evaluate` does: ask a checkpoint here, in this process, then count, print, write and compare."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vision_server import settings
from vision_server.dataset import pictures
from vision_server.engine import Florence
from vision_server.errors import BadInput, VisionError
from vision_server.evaluation import runs
from vision_server.evaluation.comparison import compare
from vision_server.evaluation.questions import Question, fingerprint, read, told
from vision_server.evaluation.runs import Row, Run
from vision_server.evaluation.tables import comparison_table, table
from vision_server.pull import folder_of
from vision_server.served import alone


def main(words: Mapping[str, Any], flags: Mapping[str, Any], config: Path | None) -> int:
    """`words` are what `flags.add_flags` took. Tables go to standard output. 1 on failure; raises BadSetting."""
    try:
        first: Run | None
        if words["compare"]:
            first, second = map(runs.read, words["compare"])
        else:
            first = runs.read(words["against"]) if words["against"] else None
            second = _run(words, flags, config)
            sys.stdout.write(table(runs.figures(second)))
            if words["json"]:
                runs.write(second, words["json"])
        if first is not None:
            compared = compare(first, second, words["resamples"], words["seed"])
            names = (first.name, second.name) if first.name != second.name else ("first", "second")
            sys.stdout.write(f"\n{comparison_table(compared, *names)}")
    except KeyboardInterrupt:
        return 130
    except (VisionError, OSError) as error:
        why = str(error) if isinstance(error, VisionError) else f"cannot write ({error.strerror})."
        sys.stderr.write(f"vision-server evaluate: {why}\n")
        return 1
    return 0


def _run(words: Mapping[str, Any], flags: Mapping[str, Any], config: Path | None) -> Run:
    chosen = settings.load(flags, config).settings
    model = alone(chosen.model, chosen)
    questions = _questions(words)
    florence = Florence.load(
        folder_of(model.checkpoint, chosen),
        model.device,
        model.dtype,
        adapter=model.adapter,
    )
    began_s = time.monotonic()
    rows = ask(florence, questions, words["beams"], words["batch"])
    about = {
        "model": model.name,
        "adapter": model.adapter.name if model.adapter else None,
        "data": ", ".join(source.name for source in words["data"]),
        "fingerprint": fingerprint(questions),
        "device": florence.device,
        "dtype": florence.dtype,
        "beams": words["beams"],
        "python": platform.python_version(),
        "seconds": round(time.monotonic() - began_s, 1),
    }
    return Run(about, tuple(rows))


def _questions(words: Mapping[str, Any]) -> list[Question]:
    """Raises BadInput for rows that cannot be asked, but with --skip-faulty, and where there are no others."""
    found = read(words["data"], words["prompt"])
    if found.faults and words["skip_faulty"]:
        sys.stderr.write(f"vision-server evaluate: {told(found.faults)}\n")
    elif found.faults:
        raise BadInput(f"{told(found.faults)}\nMend them, or leave them out with --skip-faulty.")
    if not found.questions:
        raise BadInput("There are no questions.")
    return found.questions[: words["limit"] or None]


def ask(florence: Florence, questions: Sequence[Question], beams: int, batch: int) -> list[Row]:
    """The answers in the order of the questions, a bar meanwhile. Raises VisionError."""
    wanted = florence.config.preprocess
    side = (wanted.width, wanted.height)
    rows = []
    with tqdm(total=len(questions), unit=" questions", leave=False, disable=None) as bar:
        for first in range(0, len(questions), batch):
            some = questions[first : first + batch]
            asked = [(pictures.read(one.picture, side), one.sentence) for one in some]
            for one, said in zip(some, florence.generate(asked, num_beams=beams), strict=True):
                rows.append(Row(one.key, one.picture.name, one.token, one.sentence, one.size, said.text, one.true))
            bar.update(len(some))
    return rows
