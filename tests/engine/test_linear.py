"""Linear layers packed for the CPU, and in 8 bits, against torch's own and against exact arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.engine.conftest import Pair
from tests.tiny import picture
from vision_server.engine import Florence
from vision_server.engine.device import choose_linear
from vision_server.engine.linear import (
    LEAST_INT8_INPUTS,
    GeluLinear,
    Int8Linear,
    PackedLinear,
    int8,
    quantise_channels,
    quantise_rows,
    works,
)

pytestmark = pytest.mark.skipif(
    choose_linear("auto", torch.device("cpu"), torch.float32) is None, reason="this build of torch has no oneDNN"
)
ASKED = [(picture(number), prompt) for number in range(4) for prompt in ("What does the image describe?", "<od> car")]


def layer(inputs: int, outputs: int, *, gelu: bool = False, bias: bool = True) -> nn.Linear:
    torch.manual_seed(7)
    return (GeluLinear if gelu else nn.Linear)(inputs, outputs, bias=bias).requires_grad_(False)


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 48), (24, 48), (2, 3, 48), (2, 5, 7, 48)])
def test_a_packed_layer_is_the_plain_one(shape: tuple[int, ...], bias: bool, gelu: bool, dtype: torch.dtype) -> None:
    plain, x = layer(48, 31, gelu=gelu, bias=bias).to(dtype), rows(*shape).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(PackedLinear(plain)(x), plain(x), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("inputs", "outputs"), [(48, 31), (768, 192), (3072, 768)])
def test_a_row_is_the_same_among_however_many(inputs: int, outputs: int) -> None:
    """To the last bit, so that nobody's answer depends on whom it shares a step with."""
    packed, x = PackedLinear(layer(inputs, outputs)), rows(24, inputs)
    whole = packed(x)
    for count in range(1, 25):
        assert torch.equal(packed(x[:count]), whole[:count]), count
        assert torch.equal(packed(x[None, -count:])[0], whole[-count:]), count


def test_a_packed_layer_takes_rows_that_lie_apart() -> None:
    plain, x = layer(48, 31), rows(6, 48, 5).transpose(1, 2)
    torch.testing.assert_close(PackedLinear(plain)(x), plain(x))


def test_packed_and_plain_models_answer_alike(pair: Pair) -> None:
    assert any(isinstance(module, PackedLinear) for module in pair.ours.network.modules())
    plain = Florence.load(pair.directory, "cpu", "float32", plain=True)
    assert not any(isinstance(module, PackedLinear) for module in plain.network.modules())
    answers = [[a.token_ids for a in one.generate(ASKED, max_new_tokens=12)] for one in (pair.ours, plain)]
    assert answers[0] == answers[1]


def test_the_memory_of_the_weights_is_told(one_pair: Pair) -> None:
    """The tied head is laid out anew, so it counts twice; in 8 bits less is needed."""
    plain = Florence.load(one_pair.directory, "cpu", "float32", plain=True).network
    head_bytes = plain.text.lm_head.weight.nbytes
    assert plain.weight_bytes == sum(p.nbytes for p in plain.state_dict().values()) - head_bytes
    assert one_pair.ours.network.weight_bytes == plain.weight_bytes + head_bytes
    quantised = PackedLinear(layer(256, 37)).weight_bytes, Int8Linear(layer(256, 37)).weight_bytes
    assert quantised == (4 * 256 * 37, 256 * 37 + 8 * 37)


def test_channels_and_rows_come_back_to_half_a_scale() -> None:
    weight_OI, x = rows(9, 40) * torch.logspace(-3, 2, 9)[:, None], rows(5, 40) * torch.logspace(-4, 3, 5)[:, None]
    quantised, scale_O = quantise_channels(weight_OI)
    back = quantised * scale_O[:, None]
    assert (quantised.dtype, quantised.abs().amax(dim=1).tolist()) == (torch.int8, [127] * 9)
    assert ((back - weight_OI).abs() <= scale_O[:, None] * 0.501).all()
    unsigned, scale = quantise_rows(x)
    assert unsigned.dtype == torch.uint8
    assert (((unsigned.int() - 128) * scale - x).abs() <= scale * 0.501).all()


def test_zeros_stay_zeros() -> None:
    empty = nn.Linear(LEAST_INT8_INPUTS, 3)
    nn.init.zeros_(empty.weight)
    x = torch.zeros(2, LEAST_INT8_INPUTS)
    assert torch.equal(Int8Linear(layer(LEAST_INT8_INPUTS, 3, bias=False))(x), torch.zeros(2, 3))
    assert torch.equal(Int8Linear(empty.requires_grad_(False))(x + 1), empty.bias.expand(2, 3))


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 256), (24, 256), (2, 5, 7, 256)])
def test_an_int8_layer_sums_exactly(shape: tuple[int, ...], bias: bool, gelu: bool) -> None:
    """Against the sum of the same 8-bit numbers in whole arithmetic; and near what it stands for."""
    plain, x = layer(256, 37, gelu=gelu, bias=bias), rows(*shape)
    weight, scale_O = quantise_channels(plain.weight)
    unsigned, scale = quantise_rows(x)
    sums = torch.einsum("...i,oi->...o", unsigned.long() - 128, weight.long())
    expected = sums * scale_O.double() * scale.double() + (plain.bias.double() if bias else 0.0)
    expected = torch.nn.functional.gelu(expected) if gelu else expected
    y = Int8Linear(plain)(x)
    torch.testing.assert_close(y, expected.float(), atol=1e-5, rtol=1e-5)
    assert (y - plain(x)).norm() <= 0.03 * plain(x).norm()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    quantised, x = Int8Linear(layer(256, 37)), rows(24, 256)
    alone = torch.cat([quantised(row[None]) for row in x])
    torch.testing.assert_close(quantised(torch.cat([x, x * 1000]))[:24], alone, atol=1e-6, rtol=1e-6)


def test_a_processor_that_cuts_sums_off_is_found_out() -> None:
    """As one without 8-bit dot products does: half of the largest possible sum is lost."""

    class CutOff(nn.Module):
        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.linear = Int8Linear(linear)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.linear(x)
            return y / 2

    assert works(Int8Linear, torch.float32)
    assert not works(CutOff, torch.float32)


def test_narrow_layers_are_packed_and_not_quantised() -> None:
    assert isinstance(int8(layer(LEAST_INT8_INPUTS, 4)), Int8Linear)
    assert isinstance(int8(layer(LEAST_INT8_INPUTS - 1, 4)), PackedLinear)
