"""Rows -> examples, and what is wrong with the rest, before anything is learned from them.

Reported are rows that are none, broken pictures, answers that are empty or longer than the model can say, sentences
longer than it can read, places outside the picture and in the wrong form, and what stands there twice.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from vision_server.dataset import forms, pictures
from vision_server.dataset.examples import Example, Size
from vision_server.dataset.forms import Fault
from vision_server.dataset.rows import EmptyAnswer, Row
from vision_server.engine.config import Config
from vision_server.engine.preprocess import PromptTokenizer
from vision_server.errors import BadInput, PromptTooLong, VisionError

_SHOWN = 5  # faults of a kind


@dataclass(frozen=True)
class Checked:
    """`rows` counts all there were."""

    examples: list[Example]
    faults: list[Fault]
    rows: int


def check(
    sources: Sequence[Path], prompt: str, config: Config, tokenizer: PromptTokenizer, workers: int, quiet: bool = False
) -> Checked:
    """Reads everything, decodes every picture. Raises BadInput where a source is not there."""
    for source in sources:
        if not source.exists():
            raise BadInput(f"There is no file or folder {source}.")
    rows: list[Row] = []
    faults: list[Fault] = []
    for one in (found for source in sources for found in forms.read(source, prompt)):
        if isinstance(one, Row):
            rows.append(one)
        else:
            faults.append(one)
    looked = _look({row.picture for row in rows}, workers, quiet)
    limits = _Limits(config, tokenizer)
    examples: list[Example] = []
    seen: dict[tuple[str, str], Example] = {}
    for row in rows:
        picture = looked[row.picture]
        if isinstance(picture, VisionError):
            faults.append(Fault(row.where, "broken picture", str(picture)))
            continue
        size, digest = picture
        try:
            example = row.example(size)
            limits.check(example)
        except (BadInput, PromptTooLong) as error:
            faults.append(Fault(row.where, _kind_of(error), str(error)))
            continue
        before = seen.setdefault((digest, example.sentence), example)
        if before is not example:
            other = "" if before.answer == example.answer else ", with another answer"
            faults.append(Fault(row.where, "duplicate", f"The same picture and prompt as in {before.where}{other}."))
            continue
        examples.append(example)
    return Checked(examples, faults, len(rows) + sum(fault.kind == forms.UNREADABLE for fault in faults))


class _Limits:
    """What a checkpoint can read and say."""

    def __init__(self, config: Config, tokenizer: PromptTokenizer) -> None:
        height, width = config.grid
        self._answer = config.text.max_position_embeddings
        self._prompt = self._answer - (height * width + 1)
        self._tokenizer = tokenizer

    def check(self, example: Example) -> None:
        """Raises PromptTooLong."""
        for what, text, most in (("prompt", example.sentence, self._prompt), ("answer", example.answer, self._answer)):
            count = len(self._tokenizer.encode(text))
            if count > most:
                raise PromptTooLong(f"The {what} has {count - 2} tokens; this model takes at most {most - 2}.")


def _kind_of(error: VisionError) -> str:
    if isinstance(error, EmptyAnswer):
        return "empty answer"
    if isinstance(error, PromptTooLong):
        return "too long"
    return "outside the picture" if "outside the picture" in str(error) else "wrong form"


def _look(paths: Iterable[Path], workers: int, quiet: bool) -> dict[Path, tuple[Size, str] | VisionError]:
    """Size and digest of each picture's pixels' file, or why it cannot be read."""
    ordered = sorted(paths)
    with ThreadPoolExecutor(max(1, workers), "pictures") as pool:
        shown = tqdm(
            pool.map(_one, ordered), "pictures", len(ordered), unit="", leave=False, disable=True if quiet else None
        )
        return dict(zip(ordered, shown, strict=True))


def _one(path: Path) -> tuple[Size, str] | VisionError:
    try:
        return pictures.size(path), hashlib.sha256(path.read_bytes()).hexdigest()
    except VisionError as error:
        return error


def report(checked: Checked) -> str:
    """For people: how many there are, of which prompts, and the first faults of each kind."""
    tokens = Counter(one.token or "(a question in words)" for one in checked.examples)
    shown = len({one.picture for one in checked.examples})
    lines = [f"{checked.rows} rows, {len(checked.examples)} of them good, about {shown} pictures."]
    lines += [f"  {count:6}  {token}" for token, count in tokens.most_common()]
    for kind, count in Counter(fault.kind for fault in checked.faults).most_common():
        lines.append(f"{kind}: {count}")
        some = [fault for fault in checked.faults if fault.kind == kind]
        lines += [f"  {fault.where}: {fault.message}" for fault in some[:_SHOWN]]
        if len(some) > _SHOWN:
            lines.append(f"  ... and {len(some) - _SHOWN} more")
    return "\n".join(lines) + "\n"
