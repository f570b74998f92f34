"""Steps recorded on the CPU as a CUDA graph records them: the operations on the very tensors, without the Python that
led to them. Not a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vision_server.engine.graphs import Step

# What reads a value on the host, what has a size that depends on values, and what makes a tensor from a host's value.
_OF_THE_HOST = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "unique", "lift_fresh")


def operation(function: Any) -> str:
    """`aten.masked_fill_.Scalar` -> `masked_fill_`"""
    return str(function).split(".")[1] if "." in str(function) else str(function)


def of_the_host(function: Any) -> bool:
    return operation(function).removesuffix("_copy").rstrip("_") in _OF_THE_HOST


def trace(step: Step) -> GraphModule:
    """What it does, as a graph over its tensors; it is done, too."""
    return make_fx(step)()


def constants(traced: GraphModule) -> list[torch.Tensor]:
    """The tensors outside of it that it reads and writes: weights and buffers."""
    return [getattr(traced, str(node.target)) for node in traced.graph.nodes if node.op == "get_attr"]


def operations(traced: GraphModule) -> list[str]:
    return [str(node.target) for node in traced.graph.nodes if node.op == "call_function"]


class CountingRecorder:
    """Stands for `graphs.CudaRecorder`: what it captures is the step itself."""

    def __init__(self) -> None:
        self.warmed = self.captured = self.renewed = 0

    def warm(self, step: Step) -> None:
        self.warmed += 1
        step()

    def capture(self, step: Step) -> Step:
        self.captured += 1
        return step

    def renew(self) -> None:
        self.renewed += 1


class TracingRecorder(CountingRecorder):
    """What it captures are the step's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.replayed = 0

    def capture(self, step: Step) -> Step:
        self.captured += 1
        traced, done = trace(step), iter([True])  # tracing has done it, which capturing would not

        def replay() -> None:
            self.replayed += 1
            if not next(done, False):
                traced()

        return replay


class OnOneDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises for an operation that the host takes part in, or that brings tensors from another device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        assert not of_the_host(func), f"{func} waits for the host"
        if operation(func).startswith("index"):
            assert all(tensor.dtype != torch.bool for tensor in _tensors(args[1])), f"{func} waits for the host"
        for tensor in _tensors((args, kwargs, out)):
            assert tensor.device == self._device, f"{func} with a tensor on {tensor.device}"
        self.seen += 1
        return out


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))
