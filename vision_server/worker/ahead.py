"""What a worker has done beside importing torch, so that loading finds it done: files read, memory made its own.

Every page that a process writes for the first time costs it a fault, in which the system finds and clears the page: a
quarter of a million for a model of base's size in float32, a third of its loading. While torch is imported, a core is
free to take them. What is left then is taken by all cores at once, in larger steps (madvise(2), MADV_POPULATE_WRITE);
not before, since that locks the address space, in which an import maps its libraries and objects. All of this only
saves time: where it cannot be done, or was done for nothing, loading is the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from .resources import free_memory_bytes

_WHOLE, _WEIGHTS = "model.safetensors", ("*.safetensors", "*.bin")
_MADV_POPULATE_WRITE = 23  # linux/mman.h
_PAGE_BYTES = mmap.PAGESIZE
_BLOCK_BYTES = 32 << 20
_MOST_OF_FREE = 0.5
_ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/dri")


def begin(directory: Path, device: str, dtype: str) -> Heap | None:
    """For the checkpoint that is going to be loaded from `directory`. Returns at once; `finish` what it returns.

    To be called by the thread that will load it: memory belongs to the thread that asks for it.
    """
    if sys.platform != "linux":
        return None
    read_files(directory)
    size_bytes = weight_bytes(directory, dtype) if _is_for_cpu(device) else 0
    if not 0 < size_bytes < _MOST_OF_FREE * (free_memory_bytes() or 0):
        return None
    try:
        return Heap(size_bytes)
    except OSError:
        return None


def read_files(directory: Path) -> None:
    """Have the system read the weights from the disk. Only Linux is told."""
    if sys.platform != "linux":
        return
    for path in (path for pattern in _WEIGHTS for path in directory.glob(pattern)):
        with contextlib.suppress(OSError), path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def weight_bytes(directory: Path, dtype: str) -> int:
    """What main memory it will take until the first answer; 0 where that is not plain float32, or cannot be told.

    That is four bytes for every value, and once more for the largest tensor, the head, which is kept in two layouts;
    and a quarter as much for the first picture, on which three hundred megabytes were seen to be written with base.
    """
    if dtype != "float32" and (dtype != "auto" or "amx_tile" in Path("/proc/cpuinfo").read_text(encoding="utf-8")):
        return 0
    files = [directory / _WHOLE] if (directory / _WHOLE).is_file() else list(directory.glob(_WEIGHTS[0]))
    try:
        headers = [_header(path) for path in files]
        sizes: list[int] = [prod(entry["shape"]) for header in headers for entry in header.values() if "shape" in entry]
        return 5 * (sum(sizes) + max(sizes, default=0))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return 0


def _header(path: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(min(length, 1 << 26)))
        return header


def _is_for_cpu(device: str) -> bool:
    return device == "cpu" or (device == "auto" and not may_have_accelerator())


def may_have_accelerator() -> bool:
    """Whether a driver has put one among Linux's devices; elsewhere always, since that is not known without torch."""
    return sys.platform != "linux" or any(Path(path).exists() for path in _ACCELERATORS)


class Heap:
    """The next `size_bytes` that this thread asks malloc for, in any pieces, made its own from now on; only for glibc.

    It asks for them itself, writes to them beside whatever else goes on, and `finish` frees them: with
    `process.KEEP_MEMORY` they stay the end of the heap. Raises OSError without glibc, or without so much memory.
    """

    def __init__(self, size_bytes: int) -> None:
        self._libc = ctypes.CDLL("libc.so.6")
        self._libc.malloc.argtypes, self._libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
        self._libc.free.argtypes, self._libc.free.restype = [ctypes.c_void_p], None
        self._libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        self._libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._blocks = [
            block for _ in range(-(-size_bytes // _BLOCK_BYTES)) if (block := self._libc.malloc(_BLOCK_BYTES))
        ]
        self._left = deque(self._blocks)
        self._thread = threading.Thread(target=self._write, name="memory", daemon=True)
        self._thread.start()

    def _write(self) -> None:
        for block in self._take():
            self._libc.memset(block, 0, _BLOCK_BYTES)

    def _take(self) -> Iterator[int]:
        """The blocks that nobody has taken yet, one by one; two threads may take at once."""
        with contextlib.suppress(IndexError):  # none are left
            while True:
                yield self._left.popleft()

    def finish(self, cores: int) -> None:
        """Make the rest the process's own, with so many threads, and free it all for those who ask next."""
        threads = [threading.Thread(target=self._populate) for _ in range(cores)]
        for thread in threads:
            thread.start()
        for thread in (*threads, self._thread):
            thread.join()
        for block in reversed(self._blocks):
            self._libc.free(block)

    def _populate(self) -> None:
        for block in self._take():
            start = -(-block // _PAGE_BYTES) * _PAGE_BYTES
            self._libc.madvise(start, (block + _BLOCK_BYTES - start) // _PAGE_BYTES * _PAGE_BYTES, _MADV_POPULATE_WRITE)
