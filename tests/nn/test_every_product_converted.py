"""Converters act on every product with a stored matrix, by rules that twenty lines of float64 repeat."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.analog_models import made, numbers
from torch import Tensor, nn

from crossbar_sim import Differential, Hardware
from crossbar_sim.crossbar.converters import ADC, DAC, GaussianReadNoise
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.conversion import map_model
from crossbar_sim.nn.analog.effects import layer_effects, read_linearly
from crossbar_sim.nn.evaluate import outputs


@dataclass
class Converters:
    """What DACs and ADCs make of a product of x (n, k) with a matrix (k, m), in float64."""

    design: Hardware

    def __call__(self, x: Tensor, w: Tensor, whole: Tensor, full: Tensor | None = None) -> Tensor:
        """`whole` is the parameter, which has one scale; `full` the inputs driven at full scale, (n, 1)."""
        dac, adc, rows = self.design.dac, self.design.adc, self.design.tile[0]
        x, w = x.double(), w.double()
        scale = self.design.mapping.g_max / whole.double().abs().max()
        top = 2 ** (dac.bits - (dac.signed == "sign-magnitude")) - 1
        full = x.abs().amax(1, keepdim=True) if full is None else full.double()
        full = torch.where(full > 0, full, 1.0) if dac.range == "dynamic" else torch.tensor(dac.range)
        codes = (x * top / full).round().clamp(-top, top)
        phases = [(codes, 1)]
        if dac.signed == "two-phase":
            phases = [(codes.clamp(min=0), 1), ((-codes).clamp(min=0), -1)]
        sides = [(w, 1)] if adc.per == "pair" else [(w.clamp(min=0), 1), ((-w).clamp(min=0), -1)]
        signed = adc.per == "pair" or dac.signed == "sign-magnitude"
        most = 2 ** (adc.bits - signed) - 1
        y = torch.zeros(len(x), w.shape[1], dtype=torch.float64)
        for start in range(0, len(w), rows):
            part = slice(start, start + rows)
            for c, sign in phases:
                for g, side in sides:
                    current = c[:, part] / top @ (g[part] * scale)
                    code = (current / (adc.range / most)).round().clamp(-most if signed else 0, most)
                    y += sign * side * code * (adc.range / most)
        return y * full / scale


def design(seed: int) -> Hardware:
    """A random design; it does not drift, so that conductances are those of the mapping."""
    draw = np.random.default_rng(seed)
    return Hardware(
        Differential(0.0, 5e-5),
        tile=(int(draw.integers(2, 9)), int(draw.integers(2, 9))),
        dac=DAC(
            bits=int(draw.integers(3, 8)),
            range=draw.choice([1.5, 0.6]) if draw.random() < 0.5 else "dynamic",
            signed=str(draw.choice(["sign-magnitude", "two-phase"])),
        ),
        adc=ADC(
            bits=int(draw.integers(4, 9)), range=float(draw.uniform(3e-5, 2e-4)),
            per=str(draw.choice(["pair", "column"])),
        ),
    )  # fmt: skip


class Own(nn.Module):
    """A layer of an own class: a forward and one parameter."""

    def __init__(self, forward: Callable[..., Tensor], *shape: int) -> None:
        super().__init__()
        self.weight, self.how = nn.Parameter(torch.empty(shape).uniform_(-1, 1)), forward

    def forward(self, *x: Tensor) -> Tensor:
        return self.how(self.weight, *x)


P = Converters
OFFSETS = torch.tensor([2, 2, 5], dtype=torch.int32)


def lstm(net: nn.LSTM, p: P, x: Tensor) -> Tensor:
    """One LSTM, batch first, from the equations of torch's documentation."""
    h = c = torch.zeros(len(x), net.hidden_size).double()
    out = []
    for t in range(x.shape[1]):
        i, f, g, o = _gates(net, p, x[:, t], h).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        out.append(h)
    return torch.stack(out, 1)


def _gates(net: nn.Module, p: P, x: Tensor, h: Tensor, reverse: bool = False) -> Tensor:
    end = "_l0_reverse" if reverse else "_l0" if isinstance(net, nn.RNNBase) else ""
    parts = [
        p(v, w.T, w) + getattr(net, f"bias_{s}{end}").double()
        for s, v in (("ih", x), ("hh", h))
        for w in (getattr(net, f"weight_{s}{end}"),)
    ]
    return parts if isinstance(net, nn.GRU) else parts[0] + parts[1]


def gru(net: nn.GRU, p: P, x: Tensor) -> Tensor:
    """Both directions of a GRU over (steps, b, i)."""
    found = []
    for reverse in (False, True):
        h, out = torch.zeros(x.shape[1], net.hidden_size).double(), []
        for step in reversed(x) if reverse else x:
            (r, z, n), (hr, hz, hn) = (v.chunk(3, 1) for v in _gates(net, p, step, h, reverse))
            r, z = torch.sigmoid(r + hr), torch.sigmoid(z + hz)
            h = (1 - z) * torch.tanh(n + r * hn) + z * h
            out.append(h)
        found.append(torch.stack(out[::-1] if reverse else out))
    return torch.cat(found, 2)


def transposed(net: nn.ConvTranspose2d, p: P, x: Tensor) -> Tensor:
    """Every pixel times the matrix (inputs of the group, outputs kernel), added up by torch in float64."""
    (b, c, h, w), k = x.shape, net.weight.shape[2:]
    full, each = x.abs().amax((1, 2, 3)).repeat_interleave(h * w)[:, None], c // net.groups
    out = []
    for g in range(net.groups):
        own = slice(g * each, (g + 1) * each)
        pixels = x[:, own].permute(0, 2, 3, 1).reshape(-1, each)
        columns = p(pixels, net.weight[own].reshape(each, -1), net.weight, full)
        images = columns.reshape(b, h, w, -1).permute(0, 3, 1, 2)
        eye = torch.eye(images.shape[1]).double().reshape(-1, net.weight.shape[1], *k)
        out.append(F.conv_transpose2d(images, eye, None, net.stride, net.padding, net.output_padding))
    return torch.cat(out, 1) + net.bias.double()[:, None, None]


def each(p: P, x: Tensor, w: Tensor, whole: Tensor) -> Tensor:
    """Matrices (e, k, m) times inputs (e, n, k)."""
    return torch.stack([p(a, m, whole) for a, m in zip(x, w, strict=True)])


X, TWO, STEPS = numbers(5, 8), numbers(5, 3, 8), numbers(4, 6, 8)
OWN: dict[str, tuple[Callable, tuple[int, ...], Tensor, Callable]] = {
    "einsum": (lambda w, x: torch.einsum("bi,io->bo", x, w), (8, 6), X, lambda p, w, x: p(x, w, w)),
    "heads": (
        lambda w, x: torch.einsum("bth,hnd->btnd", x, w), (8, 2, 3), TWO,
        lambda p, w, x: p(x.reshape(-1, 8), w.reshape(8, 6), w).reshape(5, 3, 2, 3),
    ),
    "heads first": (
        lambda w, x: torch.einsum("bh,nhd->bnd", x, w), (2, 8, 3), X,
        lambda p, w, x: torch.stack([p(x, m, w) for m in w], 1),
    ),
    "out of heads": (
        lambda w, x: torch.einsum("bnd,nhd->bh", x.reshape(-1, 2, 4), w), (2, 6, 4), X,
        lambda p, w, x: sum(p(x[:, n * 4 : n * 4 + 4], m.T, w) for n, m in enumerate(w)),
    ),
    "experts of an einsum": (
        lambda w, x: torch.einsum("ebh,ehf->ebf", x.transpose(0, 1), w), (3, 8, 5), TWO,
        lambda p, w, x: each(p, x.transpose(0, 1), w, w),
    ),
    "two parameters, one digital": (
        lambda w, x: torch.einsum("bi,io,o->bo", x, w, torch.ones(6)), (8, 6), X, lambda p, w, x: p(x, w, w),
    ),
    "summed before": (
        lambda w, x: torch.einsum("bti,io->bo", x, w), (8, 6), TWO, lambda p, w, x: p(x.sum(1), w, w),
    ),
    "bmm": (
        lambda w, x: torch.bmm(x.transpose(0, 1), w), (3, 8, 5), TWO,
        lambda p, w, x: each(p, x.transpose(0, 1), w, w),
    ),
    "bmm, transposed": (
        lambda w, x: x.transpose(0, 1).bmm(w.mT), (3, 5, 8), TWO,
        lambda p, w, x: each(p, x.transpose(0, 1), w.mT, w),
    ),
    "baddbmm": (
        lambda w, x: torch.baddbmm(torch.ones(5), x.transpose(0, 1), w), (3, 8, 5), TWO,
        lambda p, w, x: 1 + each(p, x.transpose(0, 1), w, w),
    ),
    "broadcast": (
        lambda w, x: x @ w.unsqueeze(0), (8, 6), TWO,
        lambda p, w, x: p(x.reshape(-1, 8), w, w).reshape(5, 3, 6),
    ),
    "all experts": (
        lambda w, x: x.unsqueeze(0) @ w, (3, 8, 5), X, lambda p, w, x: torch.stack([p(x, m, w) for m in w]),
    ),
    "one expert after the other": (
        lambda w, x: torch.stack([F.linear(x, w[e]) for e in range(3)]), (3, 5, 8), X,
        lambda p, w, x: torch.stack([p(x, m.T, w) for m in w]),
    ),
    "grouped": (
        lambda w, x: torch._grouped_mm(x, w, OFFSETS), (3, 8, 16), X,
        lambda p, w, x: torch.cat([p(x[:2], w[0], w), p(x[2:], w[2], w)]),
    ),
    "from the left": (lambda w, x: w @ x.mT, (6, 8), X, lambda p, w, x: p(x, w.T, w).T),
    "mv": (lambda w, x: torch.mv(w, x[0]), (6, 8), X, lambda p, w, x: p(x[:1], w.T, w)[0]),
    "tensordot": (
        lambda w, x: torch.tensordot(x, w, dims=([1, 2], [0, 1])), (3, 8, 4), TWO,
        lambda p, w, x: p(x.reshape(5, 24), w.reshape(24, 4), w),
    ),
    "tensordot of the last": (
        lambda w, x: torch.tensordot(x, w, 1), (8, 2, 3), TWO,
        lambda p, w, x: p(x.reshape(-1, 8), w.reshape(8, 6), w).reshape(5, 3, 2, 3),
    ),
    "permuted": (
        lambda w, x: x @ w.permute(1, 0, 2).reshape(8, 6), (2, 8, 3), X,
        lambda p, w, x: torch.cat([p(x, m, w) for m in w], 1),
    ),
    "squared": (
        lambda w, x: F.bilinear(x, x.flip(1), w), (4, 8, 8), X,
        lambda p, w, x: torch.stack([(p(x, m, w) * x.flip(1)).sum(1) for m in w], 1),
    ),
}  # fmt: skip
"""Forward, shape of the parameter, inputs, and the same from products of the converters."""

LAYERS: dict[str, tuple[Callable[[], nn.Module], Tensor, Callable]] = {
    "LSTM": (lambda: nn.LSTM(8, 6, batch_first=True), STEPS, lambda net, p, x: lstm(net, p, x)),
    "GRU": (lambda: nn.GRU(8, 6, bidirectional=True), STEPS, lambda net, p, x: gru(net, p, x)),
    "RNNCell": (
        lambda: nn.RNNCell(8, 6), X, lambda net, p, x: _gates(net, p, x, torch.zeros(5, 6)).tanh()
    ),
    **{
        f"ConvTranspose2d {name}": (
            lambda kw=kw: nn.ConvTranspose2d(4, 6, (2, 3), **kw), numbers(2, 4, 5, 4), transposed
        )
        for name, kw in {
            "plain": {}, "groups": {"groups": 2, "stride": 2, "padding": 1, "output_padding": (1, 0)},
        }.items()
    },
    "Linear": (lambda: nn.Linear(8, 6), X, lambda net, p, x: p(x, net.weight.T, net.weight) + net.bias),
}  # fmt: skip


def case(name: str) -> tuple[nn.Module, Tensor, Callable]:
    """Model, inputs, and the reference (converters, inputs) -> outputs."""
    if name in LAYERS:
        build, x, reference = LAYERS[name]
        net = made(build)
        return net, x, lambda p, v: reference(net, p, v)
    forward, shape, x, reference = OWN[name]
    own = made(lambda: Own(forward, *shape))
    return own, x, lambda p, v: reference(p, own.weight, v)


def close(y: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    assert y.shape == expected.shape
    torch.testing.assert_close(
        y.double(), expected.double(), rtol=0, atol=tolerance * float(expected.abs().max())
    )


def outputs_of(y: object) -> Tensor:
    """What a layer returns first."""
    return y if isinstance(y, Tensor) else y[0]


@pytest.mark.parametrize("exported", [False, True], ids=["eager", "exported"])
@pytest.mark.parametrize("name", [*OWN, *LAYERS])
def test_converters_act_as_in_float64(name, exported):
    model, x, reference = case(name)
    clean = model
    if exported and name == "grouped":
        pytest.skip("torch exports it in bfloat16 only")
    if exported:
        model = torch.export.export(model, (x,)).module()
    with torch.no_grad():
        for seed in range(3):
            hardware = design(seed)
            analog = map_model(model, hardware, x, fixed=len(x))[0]
            y = outputs_of(analog(x))
            close(y, reference(Converters(hardware), x))
            assert not chips.analog_state(analog).bypassed
            assert read_linearly(analog, layer_effects(analog, x, len(x))) == []
            assert not torch.allclose(y, outputs_of(clean(x)), atol=1e-3)
        ideal = map_model(model, replace(hardware, dac=DAC(), adc=ADC(range="max")), x, fixed=len(x))[0]
        close(outputs_of(ideal(x)), outputs_of(clean(x)), 2e-6)


class Added(nn.Linear):
    """By an operator that no array reads."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.addbmm(self.bias, x.unsqueeze(0), self.weight.t().unsqueeze(0))


def test_what_is_still_read_linearly_is_named():
    analog = to_analog(made(lambda: nn.Sequential(Added(8, 5))), design(0))
    (sentence,) = read_linearly(analog, layer_effects(analog, X))
    assert sentence == "dac, adc do not act on the products of 0: their weights are read linearly"


NOISY = replace(design(0), read_noise=GaussianReadNoise(0.05))
BY_EXAMPLE = [
    "heads", "bmm by example", "LSTM", "RNNCell", "ConvTranspose2d groups", "squared", "out of heads", "permuted",
]  # fmt: skip
OWN["bmm by example"] = (
    lambda w, x: torch.bmm(x.transpose(0, 1), w).transpose(0, 1), (3, 8, 5), TWO, OWN["bmm"][3]
)  # fmt: skip


@pytest.mark.parametrize("name", BY_EXAMPLE)
def test_noise_is_that_of_the_example_in_blocks_of_any_size(name):
    model, x, _ = case(name)
    model = First(model)
    (whole,) = outputs(map_model(model, NOISY, x)[0], x, len(x))
    again = torch.cat(outputs(map_model(model, NOISY, x)[0], x, 2))
    assert torch.equal(again, whole)
    (twice,) = outputs(map_model(model, NOISY, x)[0], torch.cat([x, x]), 2 * len(x))
    assert not torch.equal(twice[len(x) :], whole)  # each example has noise of its own


class First(nn.Module):
    """A layer's first output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return outputs_of(self.layer(x))


@pytest.mark.parametrize("name", [*OWN, *LAYERS])
def test_gradients_are_those_of_the_linear_read_out(name):
    model, x, _ = case(name)
    hardware = replace(design(1), dac=DAC(), adc=ADC(range=1.0))
    found = []
    for own in (hardware, replace(hardware, dac=None, adc=None)):
        v = x.clone().requires_grad_(True)
        model.zero_grad()
        outputs_of(to_analog(model, own)(v)).square().sum().backward()
        found.append([v.grad, *(p.grad.clone() for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        close(a, b)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_packed_sequences_are_those_of_torch(kind):
    """Two layers, both ways, and sequences of several lengths that do not come in their order."""
    net = made(lambda: kind(8, 6, num_layers=2, bidirectional=True))
    packed = nn.utils.rnn.pack_sequence([numbers(n, 8) for n in (3, 6, 1)], enforce_sorted=False)
    with torch.no_grad():
        (expected, states), (y, last) = net(packed), to_analog(net, IDEAL)(packed)
    close(y.data, expected.data, 2e-6)
    for a, b in zip(*((s if isinstance(s, tuple) else (s,)) for s in (last, states)), strict=True):
        close(a, b, 2e-6)


IDEAL = replace(design(0), dac=DAC(), adc=ADC(range="max"))


def test_dropout_between_layers_acts_in_training():
    net = made(lambda: nn.GRU(8, 6, num_layers=2, dropout=1.0 - 1e-7)).train()
    last = to_analog(net, IDEAL)(numbers(3, 2, 8))[0]
    with torch.no_grad():
        net.eval()
        net.weight_ih_l1.zero_()
        close(last, net(numbers(3, 2, 8))[0], 2e-6)  # as if the second layer had no inputs
