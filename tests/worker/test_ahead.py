"""What a worker does beside importing torch: how much a checkpoint will take, and memory that is there in time."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vision_server.worker import ahead
from vision_server.worker.process import KEEP_MEMORY

DEEP = (1 << 20).to_bytes(8, "little") + b"[" * (1 << 20)
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can be told to make many pages at once")

# The faults of filling memory that was, or was not, asked for ahead.
FAULTS = """
import ctypes, resource, sys, time
from vision_server.worker.ahead import Heap
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.memset.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
size = 128 << 20
heap = Heap(size) if sys.argv[1] != "plain" else None
if sys.argv[1] == "beside":
    heap._thread.join()
if heap is not None:
    heap.finish(2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
libc.memset(libc.malloc(size // 2), 7, size // 2)
libc.memset(libc.malloc(size // 4), 8, size // 4)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    environment = KEEP_MEMORY | dict(os.environ)
    done = subprocess.run([sys.executable, "-c", FAULTS, how], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def has_populate() -> bool:
    """Whether this kernel (5.14 or later) and C library (glibc) have what it takes."""
    if sys.platform != "linux":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6", use_errno=True)
    except OSError:
        return False
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return bool(libc.madvise(0, 0, ahead._MADV_POPULATE_WRITE) == 0)


@pytest.mark.skipif(not has_populate(), reason="needs Linux 5.14 and glibc")
def test_memory_that_was_asked_for_ahead_is_there() -> None:
    pages = (96 << 20) // mmap.PAGESIZE
    assert faults("plain") > pages // 2
    assert faults("beside") < pages // 8
    assert faults("at once") < pages // 8


@pytest.mark.parametrize("stored", [torch.float16, torch.float32, torch.bfloat16])
def test_what_a_checkpoint_takes(tmp_path: Path, stored: torch.dtype) -> None:
    save_file({"a": torch.zeros(3, 5, dtype=stored), "b": torch.zeros(7, dtype=stored)}, tmp_path / "model.safetensors")
    save_file({"c": torch.zeros(100)}, tmp_path / "another.safetensors")
    assert ahead.weight_bytes(tmp_path, "float32") == 5 * (3 * 5 + 7 + 3 * 5)
    (tmp_path / "model.safetensors").unlink()
    assert ahead.weight_bytes(tmp_path, "float32") == 1000


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_what_is_converted_otherwise_is_not_guessed(tmp_path: Path, dtype: str) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    assert ahead.weight_bytes(tmp_path, dtype) == 0


@pytest.mark.parametrize(
    "data", [b"", b"\x05", b"\xff" * 8 + b"{}", b"\2\0\0\0\0\0\0\0[]", b'\x10\0\0\0\0\0\0\0{"a":{"shape":0}}', DEEP]
)
def test_a_broken_file_is_left_to_the_load(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    assert ahead.weight_bytes(tmp_path, "float32") == 0
    ahead.begin(tmp_path, "cpu", "float32")


def test_without_files_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert ahead.weight_bytes(tmp_path, "float32") == 0
    ahead.begin(tmp_path / "nowhere", "cpu", "float32")


@linux
@pytest.mark.parametrize(("device", "free", "grown"), [("cpu", 100, True), ("cuda:0", 100, False), ("cpu", 50, False)])
def test_only_what_main_memory_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, free: int, grown: bool
) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    sizes: list[int] = []
    monkeypatch.setattr(ahead, "Heap", sizes.append)
    monkeypatch.setattr(ahead, "free_memory_bytes", lambda: free)
    ahead.begin(tmp_path, device, "float32")
    assert sizes == ([30] if grown else [])
