"""Which device and which dtype a checkpoint is loaded to."""

from __future__ import annotations

import torch

from vision_server.errors import BadOption

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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
