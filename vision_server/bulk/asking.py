"""What every picture is asked: prompts, the text for those that take one, how answers are generated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vision_server import tasks
from vision_server.errors import BadInput, BadSetting, PromptTooLong, UnknownPrompt
from vision_server.worker.protocol import Options


@dataclass(frozen=True)
class Asked:
    """`prompts` are tokens, no two alike; `texts` has one for each, "" for those that take none."""

    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    options: Options


def asked(names: Iterable[str], text: str, known: Iterable[str], options: Options) -> Asked:
    """`known` are the prompts of the checkpoint. Raises BadSetting."""
    known = tuple(known)
    try:
        chosen = tuple(dict.fromkeys(tasks.lookup(name, known) for name in names))
        texts = tuple("" if task.input == "none" else text for task in chosen)
        for task, own in zip(chosen, texts, strict=True):
            tasks.check_input(task, own, None)
    except (UnknownPrompt, BadInput, PromptTooLong) as error:
        raise BadSetting(f"--prompt: {error}") from None
    if text and not any(texts):
        raise BadSetting("--text: none of these prompts takes a text.")
    return Asked(tuple(task.token for task in chosen), texts, options)
