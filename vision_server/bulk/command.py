"""What `vision-server bulk` does: list, see what is answered, have the rest answered, write as it comes, tell."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from tqdm import tqdm

from vision_server import settings
from vision_server.bulk import parquets
from vision_server.bulk.asking import Asked, asked
from vision_server.bulk.engines import Loading
from vision_server.bulk.ledger import Limits
from vision_server.bulk.places import canonical, open_place
from vision_server.bulk.pools import pool
from vision_server.bulk.results import Results
from vision_server.bulk.samples import Rules
from vision_server.bulk.sources import File, Piece, list_files, pieces
from vision_server.bulk.surroundings import check_address, silence, variables
from vision_server.bulk.tables import WHOLE_FILE
from vision_server.errors import BadInput, BadSetting, CannotServe, VisionError
from vision_server.pull import folder_of
from vision_server.served import Served, alone
from vision_server.settings import Settings
from vision_server.worker.protocol import Options
from vision_server.worker.resources import free_memory_bytes, usable_cores

_DEATHS = 6  # of each engine, with no answer between, after which no more are started


def main(words: Mapping[str, Any], flags: Mapping[str, Any], config: Path | None) -> int:
    """`words` are what `flags.add_flags` took. 0 when all was asked, whatever came of it: failures are rows.

    1 where the run could not go on, 130 when a person ended it; DEST then holds what was answered. Raises BadSetting.
    """
    try:
        return _Bulk(words, settings.load(flags, config).settings).run()
    except BadSetting:
        raise
    except VisionError as error:
        sys.stderr.write(f"vision-server bulk: {error}\n")
        return 1


class _Bulk:
    def __init__(self, words: Mapping[str, Any], chosen: Settings) -> None:
        self._words, self._settings = words, chosen
        if words["address"] is not None:
            check_address(words["address"])
        self._model: Served = alone(chosen.model, chosen)
        options = Options(num_beams=words["num_beams"], max_new_tokens=words["max_new_tokens"])
        self._asked: Asked = asked(words["prompt"], words["text"], self._model.prompts, options)
        self._files: list[File] = list_files(words["source"], words["dest"])
        self._check_columns()
        about = {
            "source": canonical(words["source"]),
            "model": self._model.name,
            "revision": self._model.checkpoint.revision,
            "adapter": str(self._model.adapter) if self._model.adapter else None,
            "dtype": self._model.dtype,
            **{name: words[name] for name in ("text", "num_beams", "max_new_tokens", "field", "key")},
        }
        self._results = Results(
            words["dest"], self._asked.prompts, about, words["format"], words["part_pictures"], words["retry_failed"]
        )

    def run(self) -> int:
        began_s = time.monotonic()
        prompts, results = len(self._asked.prompts), self._results
        left = list(pieces(self._words["source"], self._files, results, prompts, results.part_pictures))
        interrupted, deaths = False, 0
        if left:
            model_bytes = _size(folder_of(self._model.checkpoint, self._settings))
            try:
                deaths = self._answer(left, model_bytes)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                results.flush()
        died = f", {deaths} engines that died were replaced" if deaths else ""
        rest = "; run it again to go on" if interrupted else ""
        sys.stderr.write(
            f"{results.answered} answered, {results.failed} failed, {results.here_already} were there"
            f"{died}; {time.monotonic() - began_s:.1f} s{rest}\n"
        )
        return 130 if interrupted else 0

    def _answer(self, left: Sequence[Piece], model_bytes: int) -> int:
        """How many engines died."""
        address = self._words["address"]
        settings.hand_down(variables(address))  # before Ray is imported, which reads them
        free_bytes = None if address else free_memory_bytes()
        gpus = 0 if self._model.device in ("cpu", "mps", "xpu") else None
        with silence() as told:
            try:
                from vision_server.bulk import cluster
            except ModuleNotFoundError as error:
                raise CannotServe(f"{error.name} is not installed: pip install 'vision-server[ray]'.") from None
            with cluster.running(address, usable_cores(), gpus, free_bytes), _ended():
                return self._through(cluster, left, model_bytes, free_bytes, told)

    def _through(
        self, cluster: ModuleType, left: Sequence[Piece], model_bytes: int, free_bytes: int | None, told: IO[str]
    ) -> int:
        words, results = self._words, self._results
        several = len(self._asked.prompts) > 1
        share = pool(self._model.device, words["engines"], cluster.nodes(), _pictures(left), model_bytes, free_bytes)
        load = Loading(self._settings, share.device, share.threads, share.decoders, several)
        book = cluster.RemoteBook(Limits(in_a_row=_DEATHS * share.engines))
        with self._bar(left, told) as bar:
            for rows in cluster.answers(left, self._rules(results.part_pictures), load, self._asked, share, book):
                results.add(rows)
                bar.update(sum(row.of is None and row.prompt != WHOLE_FILE for row in rows))
        return int(book.deaths())

    def _check_columns(self) -> None:
        """Of the first parquet file, since a flag that is wrong is wrong for all. Raises BadSetting."""
        first = next((file for file in self._files if file.kind == "parquet"), None)
        if first is None:
            return
        system, _ = open_place(self._words["source"], "SOURCE")
        try:
            with system.open(first.path, "rb") as file:
                parquets.check(file, self._rules(part_pictures=1))
        except BadInput as error:
            raise BadSetting(f"{first.name}: {error}") from None
        except Exception:  # a file that cannot be read is a row
            return

    def _rules(self, part_pictures: int) -> Rules:
        return Rules(
            prompts=len(self._asked.prompts),
            part_pictures=part_pictures,
            max_bytes=int(self._settings.max_body_mb * (1 << 20)),
            field=self._words["field"],
            key=self._words["key"],
        )

    def _bar(self, left: Sequence[Piece], told: IO[str]) -> Any:
        count = _pictures(left)
        total = sum(len(one.prompts) for piece in left for one in piece.pictures) if count is not None else None
        return tqdm(total=total, unit=" answers", file=told, leave=False, disable=not told.isatty())


def _pictures(left: Sequence[Piece]) -> int | None:
    """None where a tar or a parquet file holds nobody knows how many."""
    return None if any(piece.file for piece in left) else sum(len(piece.pictures) for piece in left)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.suffix in (".safetensors", ".bin"))


@contextlib.contextmanager
def _ended() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does. Ray sets handlers of its own, so this comes after it is there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
