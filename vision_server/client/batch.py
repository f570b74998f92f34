"""Many pictures, several requests at a time: asked, written, counted; what is done already is not asked again."""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import VisionError
from .files import Sidecars
from .metadata import Metadata
from .records import Records
from .server import ClientError, Refused, Server, Unreachable
from .sources import Fault, Picture, Unread
from .telling import bare, complain, draw, reason, tell
from .terminal import Result, lines, one_line, printable

_FAULTS = (ClientError, VisionError, OSError)
_ADDRESSES = "an address has nothing beside it to write to: leave out --sidecar and --exif, and say --out."


@dataclass(frozen=True)
class Work:
    """What is asked of each picture, and where the answers go. Without sidecars, metadata or records they are told."""

    server: Server
    prompts: Sequence[str]  # "" is the server's default
    text: str = ""
    region: str = ""
    parallel: int = 1
    drawn: Path | None = None
    sidecars: Sidecars | None = None
    metadata: Metadata | None = None
    records: Records | None = None
    records_in_order: bool = False


@dataclass
class _Job:
    """One picture: the prompts to ask, those whose text is to be written; then the answers, or what went wrong."""

    number: int
    picture: Picture
    prompts: list[str] = field(default_factory=list)
    sidecars: list[str] = field(default_factory=list)
    answers: dict[str, Result] = field(default_factory=dict)
    fault: Exception | None = None


class Batch:
    """One run. `captioned`, `skipped` and `failed` count pictures."""

    def __init__(self, work: Work, items: Sequence[Picture | Fault], leaving: threading.Event) -> None:
        """`leaving` is set when no more is to be begun: the server's pauses should end with it."""
        self._work = work
        self._items = items
        self._leaving = leaving
        self._ended: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._writing = threading.Semaphore(work.parallel)
        self.captioned = self.skipped = self.failed = 0

    def run(self) -> int:
        """0 when every picture was answered or needed nothing, 1 otherwise. KeyboardInterrupt comes after the tidying.

        Raises Unreachable where nothing could be asked, BrokenPipeError where who reads the answers has left.
        """
        began_s = time.monotonic()
        jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        planned = self._plan()
        for job in planned:
            jobs.put(job)
        interrupted = False
        stopped: Exception | None = None
        with _bar(len(planned), self._tells and sys.stdout.isatty()) as bar:
            try:
                for _ in range(min(self._work.parallel, len(planned))):
                    threading.Thread(target=self._serve, args=(jobs,), daemon=True).start()
                stopped = self._collect(planned, bar)
            except KeyboardInterrupt:
                interrupted = True
            except OSError as error:
                stopped = error
            self._leave()
        left = len(self._items) - self.captioned - self.skipped - self.failed
        if stopped is not None:
            if isinstance(stopped, BrokenPipeError) or (isinstance(stopped, Unreachable) and not self.captioned):
                raise stopped
            complain(reason(stopped))
        if len(self._items) > 1:
            self._sum_up(time.monotonic() - began_s, left if stopped or interrupted else 0)
        if interrupted:
            raise KeyboardInterrupt
        return 1 if self.failed or stopped else 0

    @property
    def _tells(self) -> bool:
        return self._work.records is None and self._work.sidecars is None and self._work.metadata is None

    # What there is to do ----------------------------------------------------------------------------------------------

    def _plan(self) -> list[_Job]:
        """Those that need work; faults are told, and what needs none is counted, at once unless answers are told."""
        planned: list[_Job] = []
        seen: set[Path | str] = set()
        for item in self._items:
            if isinstance(item, Fault):
                planned.append(_Job(len(planned), Picture("", None), fault=Unread(item.why)))
                continue
            job = _Job(len(planned), item)
            if not self._tells:
                what = item.path.absolute() if item.path is not None else item.name
                if what in seen:
                    self.skipped += 1
                    continue
                seen.add(what)
            try:
                self._needs(job)
            except _FAULTS as error:
                job.fault = _named(item, error)
            if job.fault or job.prompts or self._work.metadata:
                planned.append(job)
            else:
                self.skipped += 1
        return planned

    def _needs(self, job: _Job) -> None:
        """Raises ClientError for a picture whose place another one claims."""
        work, path = self._work, job.picture.path
        if path is None and (work.sidecars or work.metadata):
            raise ClientError(_ADDRESSES)
        if work.sidecars and path is not None:
            job.sidecars = [prompt for prompt in work.prompts if work.sidecars.claim(path, prompt)]
        wanted = set(job.sidecars)
        if self._tells:
            wanted.update(work.prompts)
        if work.records is not None:
            wanted.update(p for p in work.prompts if not self._has(job, p))
        job.prompts = [prompt for prompt in work.prompts if prompt in wanted]

    def _has(self, job: _Job, prompt: str) -> bool:
        work = self._work
        return work.records is not None and work.records.has(job.picture.name, prompt, work.text, work.region)

    # In the threads ---------------------------------------------------------------------------------------------------

    def _serve(self, jobs: queue.SimpleQueue[_Job]) -> None:
        with contextlib.suppress(queue.Empty):
            while not self._leaving.is_set():
                job = jobs.get_nowait()
                if job.fault is None:
                    try:
                        self._do(job)
                    except Exception as error:  # told by the main thread, which would wait for ever for a lost one
                        job.fault = _named(job.picture, error)
                self._ended.put(job)

    def _do(self, job: _Job) -> None:
        work, picture = self._work, job.picture
        data = picture.read()
        describes = work.metadata is not None and work.metadata.is_wanted(data)
        for prompt in work.prompts if describes else job.prompts:
            job.answers[prompt] = work.server.caption(data, prompt, work.text, work.region)
            if prompt in job.sidecars and work.sidecars is not None and picture.path is not None:
                with self._unless_leaving():
                    work.sidecars.write(picture.path, prompt, _sidecar_text(job.answers[prompt]))
        if describes and work.metadata is not None and picture.path is not None:
            with self._unless_leaving():
                work.metadata.write(picture.path, data, job.answers)
        if work.drawn is not None:
            stem = picture.path.stem if picture.path is not None else picture.name.rstrip("/").rpartition("/")[2]
            for prompt, result in job.answers.items():
                with self._unless_leaving():
                    draw(work.drawn, stem, data, prompt, work.region, result)

    @contextlib.contextmanager
    def _unless_leaving(self) -> Iterator[None]:
        """The end of the process waits for what is inside."""
        with self._writing:
            if self._leaving.is_set():
                raise ClientError("interrupted.")
            yield

    # In the main thread -----------------------------------------------------------------------------------------------

    def _collect(self, planned: Sequence[_Job], bar: Any) -> Exception | None:
        """Take the jobs as they end and tell them, in their order where that is wanted. Why it stopped early, if so.

        Raises OSError where an answer cannot be told: the others could not either.
        """
        in_order = self._tells or self._work.records_in_order
        waiting: dict[int, _Job] = {}
        following = 0
        try:
            for _ in planned:
                while True:
                    with contextlib.suppress(queue.Empty):  # a wait with an end can be interrupted everywhere
                        job = self._ended.get(timeout=0.5)
                        break
                if self._is_the_end(job.fault):
                    self._tell(job)
                    return job.fault
                bar.update()
                waiting[job.number] = job
                while (following in waiting) if in_order else waiting:
                    self._settle(waiting.pop(following if in_order else job.number), bar)
                    following += 1
        finally:
            for number in sorted(number for number, job in waiting.items() if job.answers):
                self._settle(waiting[number], bar)
        return None

    def _is_the_end(self, fault: Exception | None) -> bool:
        """Whether the others would fare no better: no server, no right to ask, a prompt nobody knows."""
        if isinstance(fault, _Told):
            refused_as_such = isinstance(fault.cause, Refused) and fault.cause.status == 400
            may_be_outside = bool(self._work.region)  # of this picture, and inside of others
            return refused_as_such and not may_be_outside and not self.captioned and len(self._items) > 1
        return fault is not None and _concerns_all(fault)

    def _settle(self, job: _Job, bar: Any) -> None:
        self._tell(job)  # what was answered before a fault, too
        if job.fault is not None:
            self.failed += 1
            bar.clear()
            complain(reason(job.fault))
            bar.refresh()
        elif job.answers:
            self.captioned += 1
        else:
            self.skipped += 1

    def _tell(self, job: _Job) -> None:
        if self._work.records is not None:
            for prompt, result in job.answers.items():
                if not self._has(job, prompt):
                    self._work.records.add(job.picture.name, prompt, result, self._work.text, self._work.region)
        if not self._tells:
            return
        for prompt, result in job.answers.items():
            names = [printable(job.picture.name)] if len(self._items) > 1 else []
            names += [bare(prompt)] if len(self._work.prompts) > 1 else []
            if names:
                tell(f"{' '.join(names)}: {one_line(result)}")
            else:
                tell("\n".join(lines(result)))

    def _leave(self) -> None:
        """Nothing is written from here on; what is being written gets finished."""
        self._leaving.set()
        for _ in range(self._work.parallel):
            self._writing.acquire()

    def _sum_up(self, took_s: float, left: int) -> None:
        rest = f", {left} left; run it again to go on" if left else ""
        sys.stderr.write(
            f"{self.captioned} captioned, {self.skipped} skipped, {self.failed} failed{rest}; "
            f"{len(self._items)} pictures in {took_s:.1f} s\n"
        )


def _named(picture: Picture, error: Exception) -> Exception:
    """The same for a person, with the picture's name before it, unless it concerns all or names the file itself."""
    if isinstance(error, Unread) or _concerns_all(error):
        return error
    why = reason(error) if isinstance(error, _FAULTS) else f"it cannot be captioned ({type(error).__name__})."
    return _Told(f"{picture.name}: {why}", error)


def _concerns_all(error: Exception) -> bool:
    """Whether the server is away, stays full, lets nobody in, or is none: another picture would fare no better."""
    if isinstance(error, Refused):
        return error.status in (401, 403, 404, 429, 503) or error.message is None
    return isinstance(error, Unreachable)


class _Told(ClientError):
    """A fault in its final words."""

    def __init__(self, text: str, cause: Exception) -> None:
        super().__init__(text)
        self.cause = cause


def _sidecar_text(result: Result) -> str:
    return result.strip() if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


def _bar(total: int, hidden: bool) -> Any:
    from tqdm import tqdm  # imported late: the daemon, and who asks about one picture, need not wait for it

    disable = hidden or total < 2 or not sys.stderr.isatty()
    return tqdm(total=total, unit="picture", dynamic_ncols=True, disable=disable, leave=False)
