"""Which device, which dtype and which linear layers a checkpoint is loaded to."""

from __future__ import annotations

import torch

from vision_server.engine.linear import Convert, PackedLinear, int8, works
from vision_server.errors import BadOption

INT8 = "int8"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, INT8: torch.float32}


def choose_device(name: str) -> torch.device:
    """`auto` takes the first of cuda, mps, xpu that works, else the CPU. Raises BadOption for one that is not here."""
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return torch.device(accelerator.type if accelerator else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadOption("The device asked for is not available here; set device to auto or cpu.") from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is float16 on an accelerator, which the models were trained in; on a CPU float32, or bfloat16 where the
    CPU has AMX tiles and so multiplies it many times faster."""
    if name == "auto":
        if device.type != "cpu":
            return torch.float16
        return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
    if name not in DTYPES:
        raise BadOption(f"dtype must be auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def choose_linear(name: str, device: torch.device, dtype: torch.dtype) -> Convert | None:
    """What becomes of the linear layers, by the name of the dtype that was asked for; None: they stay plain.

    Raises BadOption for int8 where it cannot be had.
    """
    if name == INT8:
        # what is too narrow for 8 bits is packed
        if device.type != "cpu" or not (works(int8, dtype) and works(PackedLinear, dtype)):
            raise BadOption("dtype int8 is for x86 CPUs with 8-bit dot products; set dtype to auto.")
        return int8
    if device.type == "cpu" and dtype != torch.float16 and works(PackedLinear, dtype):
        return PackedLinear
    return None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device had too little memory, however it says so.

    CUDA's own refusal comes as `torch.AcceleratorError` where torch's allocator was not asked, the CPU's as a plain
    RuntimeError (c10/core/impl/alloc_cpu.cpp).
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    words = str(error)
    return "CUDA error: out of memory" in words or "DefaultCPUAllocator" in words
