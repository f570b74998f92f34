"""All that a run needs to go on as if it had never stopped: one file, written whole or not at all."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from vision_server.errors import BadSetting

STATE_FILE = "state.pt"


def write(folder: Path, state: dict[str, Any]) -> None:
    """`state` holds tensors, numbers, texts and plain containers of them."""
    part = folder / f"{STATE_FILE}.part"
    torch.save(state, part)
    part.replace(folder / STATE_FILE)


def read(folder: Path) -> dict[str, Any]:
    """Raises BadSetting where there is none, or it is damaged. Nothing in the file is run."""
    try:
        state: dict[str, Any] = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadSetting(f"--resume: {folder} holds no {STATE_FILE}, so no run to go on with.") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError):
        raise BadSetting(f"--resume: {folder / STATE_FILE} is damaged.") from None
    return state


def random_state() -> dict[str, Any]:
    """Where this process's generators of chance stand."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
