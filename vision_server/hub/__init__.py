"""A repository `owner/name` on the Hugging Face hub -> a local directory with the files a checkpoint needs.

huggingface_hub does the talking, the signing in and the cache, so that other programs share what was fetched, and
HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they always mean. Only the bytes of a file are fetched
here: the library throws a partial file away when its call ends, and reports every ten megabytes, which is too rare to
tell slow from stalled. Python files are never fetched, weights are not looked into. It knows no checkpoint by name.
"""

from .disk import Presence, cache_folder, cached, presence
from .download import PHASE, Report, fetch
from .source import Source, is_offline, is_repository, is_revision

__all__ = [
    "PHASE",
    "Presence",
    "Report",
    "Source",
    "cache_folder",
    "cached",
    "fetch",
    "is_offline",
    "is_repository",
    "is_revision",
    "presence",
]
