"""Batches of pictures -> answers, in an actor of Ray. Knows how to go on after an engine that died, and no model."""

from __future__ import annotations

import json
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NoReturn, Protocol

import pyarrow as pa

from vision_server import tasks
from vision_server.bulk.asking import Asked
from vision_server.bulk.ledger import Begun, Book
from vision_server.bulk.tables import WHOLE_FILE, Answered, Read, answered_table, read_rows
from vision_server.errors import BadInput, BadOption, CannotServe, PromptTooLong, VisionError, WorkerCrash
from vision_server.worker.protocol import Done, Failed, Run

_OF_THE_QUESTION = (BadOption.code, PromptTooLong.code, BadInput.code)  # every picture would fare the same


class Answerer(Protocol):
    """What is used of `engines.Engine`."""

    def ask(self, runs: Sequence[Run]) -> dict[int, Done | Failed]: ...


class Answering:
    """What Ray Data makes an actor of. `load` makes the engine, with the first batch: a fault is then that batch's,
    and ends the run. Raises VisionError for what no other batch could mend."""

    def __init__(self, load: Callable[[], Answerer], asked: Asked, book: Book) -> None:
        self._load, self._asked, self._book = load, asked, book
        self._engine: Answerer | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        answered: list[Answered] = []
        to_ask: list[Read] = []
        for row in read_rows(table):
            if row.of is None and row.error is None:
                to_ask.append(row)
            else:
                answered += _as_it_is(row)
        if to_ask:
            answered += self._batch(to_ask)
        return answered_table(answered)

    def _batch(self, rows: list[Read]) -> list[Answered]:
        name = blake2b("\0".join(f"{row.picture}\0{row.prompts}" for row in rows).encode(), digest_size=16).hexdigest()
        begun = self._book.begin(name)
        if begun.hopeless:
            raise CannotServe(
                f"engines died {self._book.limits.in_a_row} times, one after the other, and answered nothing between."
            )
        answers = self._ask(rows) if not begun.deaths else self._one_by_one(name, rows, begun)
        self._book.end(name, any(row.error is None for row in answers))
        return answers

    def _one_by_one(self, batch: str, rows: list[Read], begun: Begun) -> list[Answered]:
        """After a death: so that a picture that kills is alone, and the answers of the others are kept."""
        limits, answers = self._book.limits, list[Answered]()
        for row in rows:
            if row.picture in begun.kept:
                answers += pickle.loads(begun.kept[row.picture])
                continue
            tried = begun.alone.get(row.picture, 0)
            if tried >= limits.alone:
                answers += _failed(row, WorkerCrash.code, f"The engine died {tried} times with this picture alone.")
            elif begun.deaths >= limits.batch:
                answers += _failed(row, WorkerCrash.code, f"Engines died {begun.deaths} times with pictures beside it.")
            else:
                self._book.alone(batch, row.picture)
                own = self._ask([row])
                self._book.keep(batch, row.picture, pickle.dumps(own))
                answers += own
        return answers

    def _ask(self, rows: list[Read]) -> list[Answered]:
        asked, of_run = self._asked, dict[int, tuple[Read, int]]()
        runs: list[Run] = []
        for row in rows:
            for prompt in row.prompts:  # one picture's together, so that it is looked at once
                number = len(runs) + 1
                of_run[number] = (row, prompt)
                runs.append(
                    Run(
                        number, "", asked.prompts[prompt], asked.texts[prompt], None, asked.options, row.data or b""
                    )
                )  # fmt: skip
        try:
            if self._engine is None:
                self._engine = self._load()
            outcomes = self._engine.ask(runs)
        except VisionError:
            raise
        except Exception:  # an error of CUDA poisons the process; in a new one the batch may go well
            _die()
        return [self._answer(*of_run[number], outcome) for number, outcome in sorted(outcomes.items())]

    def _answer(self, row: Read, prompt: int, outcome: Done | Failed) -> Answered:
        answered = Answered(row.picture, row.key, row.part, row.place, prompt)
        if isinstance(outcome, Failed):
            if outcome.code in _OF_THE_QUESTION:
                raise BadInput(outcome.message)
            answered.error = outcome.code
            answered.message = outcome.message
            if outcome.code == VisionError.code:
                answered.message = "The engine failed at this picture."
            return answered
        size = (outcome.width, outcome.height)
        result: Any = tasks.answer(self._asked.prompts[prompt], outcome.text, size, outcome.banned)
        answered.result = json.dumps(result)
        return answered


def _as_it_is(row: Read) -> list[Answered]:
    if row.of is not None:
        return [Answered(row.picture, row.key, row.part, row.place, WHOLE_FILE, of=row.of)]
    return _failed(row, row.error or "", row.message or "")


def _failed(row: Read, code: str, message: str) -> list[Answered]:
    prompts = row.prompts or [WHOLE_FILE]
    return [Answered(row.picture, row.key, row.part, row.place, one, error=code, message=message) for one in prompts]


def _die() -> NoReturn:
    """Leave at once, as an engine that was killed: Ray starts another."""
    traceback.print_exc(file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)
