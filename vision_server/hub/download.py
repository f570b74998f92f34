"""Which files of a repository a checkpoint needs, and fetching just those. How a byte travels is `commit`'s."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import CheckpointError, LoadFailed, VisionError
from .commit import ANSWER_TIMEOUT_S, Commit, File
from .disk import INDEX, REQUIRED, WEIGHTS, cached, shards
from .faults import explained, no_hub
from .source import Source, is_offline

log = logging.getLogger(__name__)

PHASE = "download"
Report = Callable[[str, int, int], None]  # (PHASE, bytes_done, bytes_total); a total of 0 is not known yet

_USEFUL = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(source: Source, report: Report = lambda phase, done, total: None, *, refresh: bool = False) -> Path:
    """The directory of `source`, downloaded first where the cache lacks something.

    What is complete in the cache is used without asking the hub; `refresh` asks whether the revision has moved. What
    arrived before an error is kept, and the next call goes on from there; `report` may raise a VisionError to end it.
    A refresh that fails leaves what was there before in place.
    Raises LoadFailed (trying again may help) and CheckpointError (it will not).
    """
    import httpx2

    offline = is_offline(source)
    folder = cached(source)
    if folder is not None and (offline or not refresh):
        log.info("%s is complete in the cache, commit %s: the hub is not asked", source.repository, folder.name[:12])
        return folder
    if offline:
        raise LoadFailed(
            f"{source.repository} is not complete on this machine, and offline mode keeps it from being downloaded: "
            "leave offline mode once, or choose another model."
        )
    report(PHASE, 0, 0)
    _hush()
    log.info("downloading %s, revision %s", source.repository, source.revision)
    try:
        folder = _download(source, report)
        log.info("%s is here, commit %s", source.repository, folder.name[:12])
        return folder
    except VisionError:
        raise
    except (OSError, ValueError, httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise explained(error, source.repository, source.revision) from error


def _hush() -> None:
    """Have the libraries tell the hub no more than a download needs, and the log nothing of addresses and headers."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _download(source: Source, report: Report) -> Path:
    commit, names = _listing(source)
    repository = Commit(source, commit)
    lacking = [name for name in REQUIRED if name not in names]
    weights = next((name for name in WEIGHTS if name in names), None)
    if lacking or weights is None:
        what = f"has no {lacking[0]}" if lacking else "has no weights (model.safetensors or pytorch_model.bin)"
        raise CheckpointError(f"{source.repository} {what}, so it is no checkpoint that can be loaded.")
    wanted = [*REQUIRED, *(name for name in _USEFUL if name in names), weights]
    if weights.endswith(INDEX):
        repository.bring(repository.describe(weights), lambda done: report(PHASE, 0, 0))
        wanted += shards(repository.folder / weights)
    files = []
    for name in wanted:
        files.append(repository.describe(name))
        report(PHASE, 0, 0)  # each answer may be slow; all in all they must not look like standing still
    total = sum(file.size or 0 for file in files)
    _require_space(repository, files)
    before = 0
    for file in files:
        # bound now: the callback is called while this file is being brought, and never later
        def say(done: int, before: int = before) -> None:
            report(PHASE, before + done, total)

        repository.bring(file, say)
        before += file.size or 0
        report(PHASE, before, total)
    repository.remember_revision()
    return repository.folder


def _listing(source: Source) -> tuple[str, set[str]]:
    """The commit that the revision means today, and the names of the files in it."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=source.endpoint, token=source.token)
    timeout_s = min(source.stall_timeout_s, ANSWER_TIMEOUT_S)
    try:
        info = api.model_info(source.repository, revision=source.revision, timeout=timeout_s)
    except (KeyError, TypeError, AttributeError) as error:
        raise no_hub() from error
    if not _COMMIT.fullmatch(info.sha or ""):
        raise no_hub()
    return str(info.sha), {sibling.rfilename for sibling in info.siblings or ()}


def _require_space(repository: Commit, files: list[File]) -> None:
    lacking = sum(max(0, (file.size or 0) - repository.present_bytes(file)) for file in files)
    free = shutil.disk_usage(repository.blobs).free
    if lacking > free:
        raise LoadFailed(
            f"The disk of the checkpoint cache is too full: {lacking / 1e6:,.0f} MB are needed, "
            f"{free / 1e6:,.0f} MB are free. Make room, or move the cache."
        )
