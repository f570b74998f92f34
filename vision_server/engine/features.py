"""Image features of the last pictures: a second prompt on a picture skips the vision tower, and so does a picture that
comes twice in one step. Holds no weights and no requests.

A picture's key is a digest of what the vision tower would see: the resized RGB and how its values become pixels. Not of
the encoded file, which the engine never has; so nothing that decides pixels can be forgotten in it, and one picture is
known again in another container, too. That costs a second decoding and resizing, a few hundredths of the tower's time.
The features belong to one engine, hence to one model, device and dtype.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vision_server.engine.config import PreprocessConfig

DEFAULT_BYTES = 64 << 20  # 36 pictures of base in float32, 54 of large in float16
Look = Callable[[Sequence[NDArray[np.uint8]]], Tensor]


def digest(rgb_HWC: NDArray[np.uint8], preprocess: PreprocessConfig) -> bytes:
    """The key of a picture that is already of the size in `preprocess`."""
    state = blake2b(repr(preprocess).encode(), digest_size=32)
    state.update(np.ascontiguousarray(rgb_HWC).data)
    return state.digest()


class Features:
    """Answers with the features of pictures, looking only at those it does not hold.

    `look` makes features (B, N, D) of B pictures (height, width, 3). At most `max_bytes` of them are kept, those that
    were asked for last; with 0 none are, no key is made and every picture is looked at. Not thread-safe.
    """

    def __init__(self, look: Look, preprocess: PreprocessConfig, max_bytes: int) -> None:
        self._look, self._preprocess = look, preprocess
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()  # (N, D) by key, the last used at the end

    def key(self, rgb_HWC: NDArray[np.uint8]) -> bytes:
        """What `of` knows the picture by; empty where nothing is kept."""
        return digest(rgb_HWC, self._preprocess) if self.max_bytes else b""

    def __contains__(self, key: bytes) -> bool:
        return key in self._kept

    def of(self, pictures: Sequence[NDArray[np.uint8]], keys: Sequence[bytes]) -> Tensor:
        """Features (B, N, D) of the pictures, in their order; the new ones among them are looked at together."""
        if not self.max_bytes:
            return self._look(pictures)
        found = {key: self._kept[key] for key in keys if key in self._kept}
        for key in found:
            self._kept.move_to_end(key)
        new = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in found}
        if new:
            # Only what the tower has come back with is kept, so that one that fails leaves nothing behind.
            found.update(zip(new, self._look(list(new.values())), strict=True))
            for key in new:
                self._keep(key, found[key])
        return torch.stack([found[key] for key in keys])

    def _keep(self, key: bytes, features_ND: Tensor) -> None:
        if features_ND.nbytes > self.max_bytes:
            return
        # A copy, since one row of a batch would hold the memory of all of them.
        self._kept[key] = features_ND.clone()
        self.nbytes += features_ND.nbytes
        while self.nbytes > self.max_bytes:
            self.nbytes -= self._kept.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        self._kept.clear()
        self.nbytes = 0
