"""What a failed download means to the operator, in our words. Says nothing of how to download.

huggingface_hub's own texts hold paths, addresses and advice on the library. CheckpointError is what trying again does
not mend, LoadFailed what it may.
"""

from __future__ import annotations

import errno

from ..errors import CheckpointError, LoadFailed, VisionError

# a quota is a full disk to whoever has one; Windows has no such number
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def no_hub() -> LoadFailed:
    return LoadFailed("What answers at the hub's address does not answer as a hub does: look at HF_ENDPOINT.")


def explained(error: Exception, name: str, revision: str) -> VisionError:
    """The error to raise for `error`, which came out of huggingface_hub, its HTTP client or the disk."""
    import httpx2
    from huggingface_hub import errors as hub_errors

    if isinstance(error, hub_errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return explained(error.__cause__, name, revision)
    if isinstance(error, hub_errors.HFValidationError):
        return CheckpointError(f"{name!r} is no repository: the hub allows no such name.")
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return CheckpointError(f"{name} has no revision {revision}: give a branch, a tag or a commit of it.")
    if isinstance(error, hub_errors.GatedRepoError):
        return CheckpointError(
            f"{name} is gated: accept its terms on its page at the hub, and give a token of the account that did."
        )
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return CheckpointError(
            f"The hub shows no repository {name}: look at its spelling, or give a token if it is private."
        )
    if isinstance(error, hub_errors.HfHubHTTPError):
        return _refused(error.response.status_code, name)
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
        return LoadFailed(f"The hub cannot be reached for {name}: look at the network. The next request tries again.")
    if isinstance(error, httpx2.TimeoutException):
        return LoadFailed(f"The download of {name} stood still for too long. The next request goes on with it.")
    if isinstance(error, httpx2.InvalidURL | httpx2.UnsupportedProtocol):
        return LoadFailed("The hub's address is not one: look at HF_ENDPOINT.")
    if isinstance(error, httpx2.HTTPError):
        return LoadFailed(f"The connection was cut while {name} was downloaded. The next request goes on with it.")
    if isinstance(error, OSError) and error.errno in _FULL:
        return LoadFailed(f"The disk became full while {name} was downloaded. Make room; the next request goes on.")
    if isinstance(error, OSError) and error.errno is not None:
        return LoadFailed("The checkpoint cache cannot be written or read: look at the rights of its folder.")
    return no_hub()


def _refused(status: int, name: str) -> VisionError:
    if status == 401:
        return CheckpointError("The hub does not accept the token: replace it, or go without one.")
    if status == 403:
        return CheckpointError(f"The token may not read {name}: give it the right to, or take another.")
    if status == 404:
        return CheckpointError(f"The hub knows nothing of {name} or of a file of it: look at the name and HF_ENDPOINT.")
    if status == 429:
        return LoadFailed("The hub takes no more requests from here for now. Try again in some minutes.")
    return LoadFailed(f"The hub answered with an error ({status}). Try again later.")
