"""What a cluster has -> how many engines there are, and each one's share. Plain arithmetic; knows no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vision_server.errors import BadSetting

_CORES = 4  # an engine gains little from more: decoding reads all weights for each token
_CPU_BATCH, _GPU_BATCH, _LEAST_BATCH = 32, 256, 8  # pictures that an engine is handed together
_GPU_DECODERS = 4
_ROUNDS = 4  # batches for each engine, so that none is left with the last one while the others wait
_BESIDE_BYTES = 1 << 30  # torch itself, and what a picture needs
_OF_FILES = 2.5  # what a model takes of memory: its files may be of half the precision, and are laid out anew


@dataclass(frozen=True)
class Pool:
    """`device`, `cpus`, `gpus` and `threads` (None: torch's own) are each engine's; `batch` is in pictures."""

    engines: int
    device: str
    cpus: int
    gpus: int
    threads: int | None
    decoders: int
    batch: int


def pool(
    device: str,
    engines: int | None,
    nodes: Sequence[Mapping[str, float]],
    pictures: int | None,
    model_bytes: int,
    free_bytes: int | None,
) -> Pool:
    """`nodes` are what each machine offers, by Ray's names; `pictures` None is an unknown number. `free_bytes` is the
    memory of the only machine, if it is one. Raises BadSetting for what the cluster does not have."""
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if device.startswith(("cuda:", "xpu:")):
        raise BadSetting(f"device {device}: Ray hands the devices out; say {device.partition(':')[0]}.")
    if device == "cuda" and not gpus:
        raise BadSetting("device cuda: no machine here offers Ray a GPU.")
    if device == "cuda" or (device == "auto" and gpus):
        count = min(engines or gpus, gpus)
        return Pool(count, "cuda", 1, 1, None, _GPU_DECODERS, _batch(_GPU_BATCH, pictures, count))
    if device in ("mps", "xpu"):
        return Pool(1, device, 1, 0, None, _GPU_DECODERS, _batch(_GPU_BATCH, pictures, 1))
    cores = [max(1, int(node.get("CPU", 0))) for node in nodes if node.get("CPU", 0) >= 1] or [1]
    count = engines or sum(max(1, one // _CORES) for one in cores)
    if engines is None and free_bytes is not None:
        count = max(1, min(count, int(free_bytes / (_OF_FILES * model_bytes + _BESIDE_BYTES))))
    share = max(1, min(sum(cores) // count, *cores)) if engines or len(cores) == 1 else _even(cores)
    return Pool(count, "cpu", share, 0, share, 1, _batch(_CPU_BATCH, pictures, count))


def _even(cores: Sequence[int]) -> int:
    return min(one // max(1, one // _CORES) for one in cores)


def _batch(most: int, pictures: int | None, engines: int) -> int:
    if pictures is None:
        return most
    return max(_LEAST_BATCH, min(most, -(-pictures // (engines * _ROUNDS))))
