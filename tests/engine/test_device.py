"""Choosing device and dtype."""

from __future__ import annotations

import pytest
import torch

from tests.engine.conftest import Pair
from vision_server.engine import florence
from vision_server.engine.device import choose_device, choose_dtype, choose_linear, is_out_of_memory
from vision_server.engine.linear import PackedLinear, int8
from vision_server.errors import BadOption, OutOfMemory


def test_auto_takes_an_accelerator_where_there_is_one() -> None:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    assert choose_device("auto").type == (accelerator.type if accelerator else "cpu")
    assert choose_device("cpu").type == "cpu"


def test_auto_dtype_fits_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_dtype("auto", torch.device("cuda:1")) is torch.float16
    for tiles, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda tiles=tiles: tiles)
        assert choose_dtype("auto", torch.device("cpu")) is dtype


def test_what_is_not_here_is_refused() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(BadOption, match="not available"):
            choose_device("cuda")
    with pytest.raises(BadOption, match="dtype must be"):
        choose_dtype("int3", torch.device("cpu"))


def test_linear_layers_fit_the_device_and_the_dtype() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_linear("auto", cpu, torch.float32) is PackedLinear
    assert choose_linear("int8", cpu, choose_dtype("int8", cpu)) is int8
    assert choose_linear("float16", cpu, torch.float16) is None
    assert choose_linear("auto", cuda, torch.float16) is None
    with pytest.raises(BadOption, match="int8 is for x86 CPUs"):
        choose_linear("int8", cuda, torch.float32)


def test_without_onednn_the_layers_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a build of torch that lacks it, or has given its operators other names."""
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    monkeypatch.setattr(torch.ops, "onednn", object())
    assert choose_linear("auto", cpu, torch.float32) is None
    with pytest.raises(BadOption, match="int8 is for x86 CPUs"):
        choose_linear("int8", cpu, torch.float32)


def test_too_little_memory_is_known_however_it_is_said() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 62, dtype=torch.int8)
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"))
    assert is_out_of_memory(torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be ..."))
    assert not is_out_of_memory(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_load_that_the_cpu_has_no_memory_for_says_so(one_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(*args: object) -> None:
        torch.empty(1 << 62, dtype=torch.int8)

    monkeypatch.setattr(florence, "load_network", too_much)
    with pytest.raises(OutOfMemory, match="too little free memory"):
        florence.Florence.load(one_pair.directory, "cpu", "float32")
