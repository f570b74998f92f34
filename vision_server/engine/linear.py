"""Linear layers as a CPU multiplies them fastest, beside the plain ones that they stand for.

`nn.Linear` hands a float32 product to the BLAS that torch was built with. It reads the weights as the file has them,
and at the few rows of a decoder step, or on a processor that it was not written for, takes several times as long as
memory needs. oneDNN, which torch carries for its compiler, multiplies weights that were laid out for it once, and adds
bias and GELU before the result leaves the registers (`mkldnn::_linear_pointwise`, torch/_inductor/mkldnn_ir.py).

8-bit weights are a quarter of the bytes that a decoder step is bound by. They are symmetric, a scale for each output
channel; activations are quantised as they come, a scale for each row, so that nobody's answer depends on whom it shares
a batch with ("LLM.int8()", Dettmers et al. 2022, section 2: vector-wise quantisation). Sums are exact in 32 bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

log = logging.getLogger(__name__)

Convert = Callable[[nn.Linear], nn.Module]

LEAST_INT8_INPUTS = 192  # with fewer, quantising the rows costs more than the smaller product saves
_MOST = 127
_ZERO = 128  # oneDNN is fast on unsigned rows; this is where their zero lies
_TINY = 1e-12  # a scale for what is all zeros


class GeluLinear(nn.Linear):
    """A linear layer and the GELU after it, which the fast twins compute in one pass."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(super().forward(x))


class PackedLinear(nn.Module):
    """`linear` with its weights laid out for oneDNN; float32 or bfloat16, for inference on the CPU.

    (..., inputs) -> (..., outputs). The layout is the library's secret: the layer can be neither saved nor moved.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self.weight_bytes = linear.weight.nbytes
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self._after, self._how = ("gelu", "none") if isinstance(linear, GeluLinear) else ("none", "")

    def forward(self, x: Tensor) -> Tensor:
        alone = x.numel() == x.shape[-1]
        if alone:  # the product of a single row is added up in another order: alone, it would get other bits
            x = x.expand(*x.shape[:-2], 2, -1)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, self._after, [], self._how)
        return y[..., :1, :] if alone else y


class Int8Linear(nn.Module):
    """`linear` (float32) with 8-bit weights and rows; float32 outside. For inference on the CPU."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight_OI, scale_O = quantise_channels(linear.weight.detach())
        outputs = len(scale_O)
        self.bias = linear.bias if linear.bias is not None else torch.zeros(outputs)
        self.weight_bytes = weight_OI.nbytes + 8 * outputs
        self._weight = torch.ops.onednn.qlinear_prepack(weight_OI, None)
        self._scale_O, self._zero_O = scale_O, torch.zeros(outputs, dtype=torch.int32)
        self._gelu = isinstance(linear, GeluLinear)

    def forward(self, x: Tensor) -> Tensor:
        rows, scale = quantise_rows(x)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(rows, 1.0, _ZERO, self._weight, self._scale_O, self._zero_O),
            *(None, 1.0, 0, torch.float32, "none", [], ""),
        )
        torch.addcmul(self.bias, y, scale, out=y)
        return F.gelu(y) if self._gelu else y


def quantise_channels(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (O, I) -> int8 (O, I) and the scale of each channel (O,): weight = int8 * scale, to half a scale."""
    scale_O = weight_OI.abs().amax(dim=1).clamp_min_(_TINY) / _MOST
    return (weight_OI / scale_O[:, None]).round_().to(torch.int8), scale_O


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(..., I) -> uint8 (..., I) and the scale of each row (..., 1): x = (uint8 - 128) * scale, to half a scale."""
    most = torch.linalg.vector_norm(x, torch.inf, dim=-1, keepdim=True).clamp_min_(_TINY)
    # the half makes the conversion, which cuts off, round: everything here is positive
    rows = torch.addcmul(torch.tensor(_ZERO + 0.5), x, _MOST / most).to(torch.uint8)
    return rows, most / _MOST


def int8(linear: nn.Linear) -> nn.Module:
    """Its 8-bit twin, or its packed one where that is faster."""
    return Int8Linear(linear) if linear.in_features >= LEAST_INT8_INPUTS else PackedLinear(linear)


def works(convert: Convert, dtype: torch.dtype) -> bool:
    """Whether this build of torch has it, and this processor gets it right: x86 ones without 8-bit dot products add
    pairs of products in 16 bits, and the largest of them are cut off there."""
    plain = nn.Linear(LEAST_INT8_INPUTS, 2, bias=False, dtype=dtype).requires_grad_(False)
    nn.init.ones_(plain.weight)
    largest = torch.ones(1, LEAST_INT8_INPUTS, dtype=dtype)
    try:
        with torch.inference_mode():
            return torch.allclose(convert(plain)(largest), plain(largest), rtol=0.01)
    except (AttributeError, RuntimeError) as error:  # no such operator, or none for this processor
        log.info("linear layers cannot be converted here: %s", error)
        return False
