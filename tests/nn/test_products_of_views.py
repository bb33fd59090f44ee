"""Converters act on products with views of a parameter: the same cells as of the whole weight."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.analog_models import numbers
from torch import nn

from crossbar_sim import Hardware, LogNormalDrift
from crossbar_sim.crossbar.converters import ADC, DAC
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.conversion import map_model

COARSE = Hardware(dac=DAC(bits=5), adc=ADC(bits=5, range="max"))
X = numbers(8, 5).abs()
P = torch.linspace(-1, 1, 30).reshape(5, 6)


class Product(nn.Module):
    def __init__(self, how, p):
        super().__init__()
        self.how, self.p, self.bias = how, nn.Parameter(p.clone()), nn.Parameter(numbers(6))

    def forward(self, x):
        return self.how(x, self.p, self.bias)


WAYS = {
    "matmul": (lambda x, p, b: x @ p, P),
    "addmm": (lambda x, p, b: torch.addmm(b, x, p) - b, P),
    "linear of the transpose": (lambda x, p, b: F.linear(x, p.t()), P),
    "transposed": (lambda x, p, b: x @ p.T, P.T.contiguous()),
    "chunks": (lambda x, p, b: torch.cat([F.linear(x, w) for w in p.chunk(2)], 1), P.T.contiguous()),
    "slices": (lambda x, p, b: torch.cat([x @ p[:, :4], x @ p[:, 4:]], 1), P),
    "unbound": (lambda x, p, b: torch.cat([x @ w for w in p.unbind(1)], 1), P.reshape(5, 2, 3)),
    "reshaped": (lambda x, p, b: x @ p.view(5, 6), P.reshape(5, 2, 3)),
}


@pytest.mark.parametrize("exported", [False, True], ids=["eager", "exported"])
@pytest.mark.parametrize("name", WAYS)
def test_a_view_is_read_through_the_converters_of_its_cells(name, exported):
    whole = Product(lambda x, p, b: F.linear(x, p), P.T.contiguous()).eval()
    how, p = WAYS[name]
    model = Product(how, p).eval()
    model = torch.export.export(model, (X,)).module() if exported else model
    with torch.no_grad():
        expected = map_model(whole, COARSE, X)[0](X)
        analog = map_model(model, COARSE, X, fixed=len(X))[0]
        got = analog(X)
        ideal = map_model(model, Hardware(), X, fixed=len(X))[0](X)
    assert not chips.analog_state(analog).bypassed
    assert torch.allclose(got, expected, atol=1e-5)
    assert torch.allclose(ideal, X @ P, atol=1e-5)
    assert not torch.allclose(got, ideal, atol=1e-3)


class Parts(nn.Module):
    """Two halves of a linear layer, each with its part of the bias."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(numbers(6, 5)), nn.Parameter(numbers(6))

    def forward(self, x):
        halves = zip(self.weight.chunk(2), self.bias.chunk(2), strict=True)
        return torch.cat([F.linear(x, w, b) for w, b in halves], 1)


@pytest.mark.parametrize("hardware", [Hardware(drift=LogNormalDrift(0.3)), COARSE], ids=["drift", "coarse"])
def test_a_bias_in_parts_is_a_row_in_the_model_and_in_its_export(hardware):
    model, hardware = Parts().eval(), replace(hardware, bias="row")
    exported = torch.export.export(model, (X,)).module()
    with torch.no_grad():
        found = [map_model(m, hardware, X, fixed=len(X))[0] for m in (model, exported)]
        assert [[slot.rows for slot, _ in chips.slots(analog)] for analog in found] == [[6], [6]]
        assert torch.allclose(found[0](X), found[1](X), atol=1e-6)


class Attention(nn.Module):
    def __init__(self, same):
        super().__init__()
        self.attention, self.same = nn.MultiheadAttention(8, 2, batch_first=True), same

    def forward(self, x):
        return self.attention(x, x if self.same else x.flip(1), x)[0]


@pytest.mark.parametrize("bias", ["digital", "row"])
@pytest.mark.parametrize("same", [True, False])
def test_the_input_projection_of_attention_goes_through_the_converters(same, bias):
    model, x = Attention(same).eval(), numbers(4, 6, 8)
    exported = torch.export.export(model, (x,)).module()
    hardware = replace(COARSE, bias=bias)
    with torch.no_grad():
        analog = map_model(model, hardware, x)[0]
        got, ideal = analog(x), map_model(model, replace(Hardware(), bias=bias), x)[0](x)
        other = map_model(exported, hardware, x, fixed=len(x))[0](x)
    assert not chips.analog_state(analog).bypassed
    assert torch.allclose(got, other, atol=1e-5)
    assert torch.allclose(ideal, model(x), atol=1e-5)
    assert not torch.allclose(got, ideal, atol=1e-3)
