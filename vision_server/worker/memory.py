"""How much GPU memory is in use on this machine, asked of the driver through nvidia-ml-py where that is installed.

For the log, around a load and an unload, and so that the next worker starts when the memory of the last one is back.
NVML opens no CUDA context, so the daemon stays off the GPU's list of processes.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from typing import Any

_PATIENCE_S = 2.0  # the driver gives a dead process's memory back within a second; more is what others have taken
_HUNG_S = 2 * _PATIENCE_S  # a driver in trouble may never answer; nobody waits for its figures
_NOISE_BYTES = 64 << 20


async def used_bytes(back_to: int | None = None) -> int | None:
    """Memory in use on all GPUs together; None without NVIDIA's driver or its Python binding.

    With `back_to`, waits up to some seconds until it is down to about that again.
    """
    try:
        return await asyncio.wait_for(asyncio.to_thread(_used_bytes, back_to), _HUNG_S)
    except asyncio.TimeoutError:
        return None


def _used_bytes(back_to: int | None) -> int | None:
    try:
        nvml: Any = importlib.import_module("pynvml")
    except Exception:  # not there, or a broken one
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        devices = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        give_up_s = time.monotonic() + _PATIENCE_S
        while True:
            used = sum(int(nvml.nvmlDeviceGetMemoryInfo(device).used) for device in devices)
            if back_to is None or used <= back_to + _NOISE_BYTES or time.monotonic() >= give_up_s:
                return used
            time.sleep(0.1)
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()
