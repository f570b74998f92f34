"""One commit of a repository: bytes of files from the hub into the library's cache. Knows not which are needed."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import LoadFailed
from .disk import place_of
from .faults import no_hub
from .source import Source

ANSWER_TIMEOUT_S = 30.0  # for an answer that is no file
_CONNECT_TIMEOUT_S = 10.0
_LOCK_POLL_S = 1.0
_HASH_BYTES = 8 << 20

_ETAG = re.compile(r"\w[\w.-]*", re.ASCII)  # becomes a file name in the cache
_SHA256 = re.compile(r"[0-9a-f]{64}")  # what the hub gives as the ETag of a large file


@dataclass(frozen=True)
class File:
    name: str
    etag: str
    size: int | None


class Commit:
    """One commit of a repository: its files on the hub, and their place in the library's cache.

    The cache's layout is the library's: `blobs/<etag>` holds bytes, `snapshots/<commit>/<name>` points to them, and
    `refs/<revision>` names a commit. The pointers are made by the library itself, which finds the bytes already there.
    """

    def __init__(self, source: Source, commit: str) -> None:
        self._source, self._commit, self._root = source, commit, place_of(source)
        self._cache = self._root.parent
        self._locks = self._cache / ".locks" / self._root.name
        self.blobs = self._root / "blobs"
        self.folder = self._root / "snapshots" / commit
        for folder in (self.blobs, self._locks):
            folder.mkdir(parents=True, exist_ok=True)

    def describe(self, name: str) -> File:
        from huggingface_hub import get_hf_file_metadata

        found = get_hf_file_metadata(
            self._url(name),
            token=self._source.token,
            timeout=min(self._source.stall_timeout_s, ANSWER_TIMEOUT_S),
            endpoint=self._source.endpoint,
        )
        if found.commit_hash != self._commit or not _ETAG.fullmatch(found.etag or ""):
            raise no_hub()
        return File(name, str(found.etag), found.size)

    def present_bytes(self, file: File) -> int:
        for path in (self.folder / file.name, self.blobs / file.etag, self._part(file)):
            if path.exists():
                return path.stat().st_size
        return 0

    def bring(self, file: File, report: Callable[[int], None]) -> None:
        """Have `file` in the snapshot. `report` is told how many of its bytes are there."""
        blob, part = self.blobs / file.etag, self._part(file)
        if (self.folder / file.name).exists():
            return
        if not blob.exists():
            with self._alone(file, report):
                if not blob.exists():
                    self._transfer(file, part, report)
                    self._verify(file, part, report)
                    part.replace(blob)
        self._point(file)

    def remember_revision(self) -> None:
        """Now that the snapshot is whole: until here, the revision meant what it meant before, offline too."""
        if self._source.revision == self._commit:
            return
        ref = self._root / "refs" / self._source.revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        new = ref.with_name(f"{ref.name}.new")
        new.write_text(self._commit, encoding="ascii")
        new.replace(ref)

    def _part(self, file: File) -> Path:
        return self.blobs / f"{file.etag}.vision-server.incomplete"

    def _url(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self._source.repository, name, revision=self._commit, endpoint=self._source.endpoint)

    @contextmanager
    def _alone(self, file: File, report: Callable[[int], None]) -> Iterator[None]:
        """Hold the lock that every user of the library's cache takes, so that no two programs write one file."""
        from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # it hides its names from mypy

        seen, seen_s = -1, time.monotonic()
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(WeakFileLock(self._locks / f"{file.etag}.lock", timeout=_LOCK_POLL_S))
                    break
                except TimeoutError:
                    now_s, present = time.monotonic(), self.present_bytes(file)
                    if present > seen:
                        seen, seen_s = present, now_s
                    elif now_s - seen_s > self._source.stall_timeout_s:
                        raise LoadFailed(
                            f"Another program holds {file.name} of {self._source.repository} and gets no further: "
                            "end it, or try again later."
                        ) from None
                    report(present)
            yield

    def _transfer(self, file: File, part: Path, report: Callable[[int], None]) -> None:
        """Fill `part`. A cut connection is taken up again for as long as each attempt brings bytes."""
        import httpx2

        part.touch()
        if file.size is None or part.stat().st_size > file.size:
            part.unlink()  # without a known size, nothing tells a partial file from a whole one
        while True:
            part.touch()
            have = part.stat().st_size
            if have == file.size:
                return
            try:
                self._attempt(file, part, have, report)
            except (httpx2.RemoteProtocolError, httpx2.ReadError):
                if part.stat().st_size <= have:
                    raise
                continue
            if file.size is None:
                return
            if part.stat().st_size > file.size:
                part.unlink()
                raise self._damaged(file)
            if part.stat().st_size <= have:
                raise LoadFailed(
                    f"The hub sends nothing more of {file.name} of {self._source.repository}. Try again later."
                )

    def _attempt(self, file: File, part: Path, have: int, report: Callable[[int], None]) -> None:
        import httpx2
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

        headers = build_hf_headers(token=self._source.token) | {"Accept-Encoding": "identity"}
        if have and file.size is not None:
            headers["Range"] = f"bytes={have}-"
        stall_s = self._source.stall_timeout_s
        timeout = httpx2.Timeout(stall_s, connect=min(stall_s, _CONNECT_TIMEOUT_S))
        # the client leaves the token behind when it is redirected to another host
        with get_session().stream("GET", self._url(file.name), headers=headers, timeout=timeout) as response:
            hf_raise_for_status(response)
            with part.open("ab" if response.status_code == 206 else "wb") as out:
                for chunk in response.iter_bytes():
                    out.write(chunk)
                    report(out.tell())
                    if file.size is not None and out.tell() > file.size:
                        return

    def _verify(self, file: File, part: Path, report: Callable[[int], None]) -> None:
        if not _SHA256.fullmatch(file.etag):
            return  # a small file; the hub's ETag of those is git's own, a mirror's may be anything
        digest, size = hashlib.sha256(), part.stat().st_size
        with part.open("rb") as stream:
            while piece := stream.read(_HASH_BYTES):
                digest.update(piece)
                report(size)
        if digest.hexdigest() != file.etag:
            part.unlink()
            raise self._damaged(file)

    def _damaged(self, file: File) -> LoadFailed:
        return LoadFailed(
            f"{file.name} of {self._source.repository} arrived damaged and was thrown away. Try again; if it stays "
            "so, something between here and the hub changes what is sent."
        )

    def _point(self, file: File) -> None:
        from huggingface_hub import hf_hub_download

        hf_hub_download(
            self._source.repository,
            file.name,
            revision=self._commit,
            cache_dir=self._cache,
            token=self._source.token,
            endpoint=self._source.endpoint,
            etag_timeout=min(self._source.stall_timeout_s, ANSWER_TIMEOUT_S),
        )
