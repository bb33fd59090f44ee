"""Gradients through arrays: the derivative of what was programmed, with the cells' noise held fixed."""

import numpy as np
import pytest
import torch
from helpers.analog_models import DRIFT, LAYERS, PLAIN, first, made, numbers
from helpers.law_examples import LAWS
from torch import nn

from crossbar_sim import ALL_MAPPINGS, Differential, Hardware, Key, LogNormalDrift, Offset, StuckCells
from crossbar_sim.crossbar.hardware import slope
from crossbar_sim.nn import set_chip, to_analog

KEY, CHIP = Key(3).fold("w"), 4
W = (numbers(9, 31) + 0.05 * numbers(9, 31).sign()).numpy()
TOP = float(np.abs(W).max())
MAPPINGS = (Differential(), Differential(1e-6), Offset(1e-6), Differential(1e-6, copies=3))
SCALING = [law for law in LAWS if law.multiplicative]


def differences(hardware: Hardware, h: float = 1e-2) -> np.ndarray:
    """Central differences of every effective weight, the scale held fixed as the gradient does."""
    scale = hardware.mapping.scale(W)
    up, down = (np.sign(W) * np.minimum(np.abs(W) + d, TOP) for d in (h, -h))
    ends = [
        hardware.effective_weight(w.astype(np.float32), KEY, CHIP, scale=scale).astype(np.float64)
        for w in (up, down)
    ]
    return (ends[0] - ends[1]) / (up.astype(np.float32).astype(np.float64) - down.astype(np.float32))


@pytest.mark.parametrize("drift_per", ["cell", "weight"])
@pytest.mark.parametrize("mapping", MAPPINGS, ids=str)
@pytest.mark.parametrize("law", SCALING, ids=lambda law: law.kind)
def test_slopes_are_finite_differences(law, mapping, drift_per):
    hardware = Hardware(mapping, drift=law, drift_per=drift_per, stuck=StuckCells(0.1, 0.1))
    got = slope(hardware, W, KEY, CHIP)
    np.testing.assert_allclose(got, differences(hardware), rtol=2e-3, atol=2e-3)
    assert len(np.unique(got.round(3))) > (1 if law.kind == "bernoulli" else 2)


@pytest.mark.parametrize("mapping", ALL_MAPPINGS, ids=lambda m: m.kind)
def test_stuck_cells_have_no_slope_and_levels_pass_it_on(mapping):
    stuck = Hardware(mapping(), stuck=StuckCells(0.5, 0.5))
    assert not slope(stuck, W, KEY, CHIP).any()
    levels = Hardware(mapping(levels=3))
    assert np.array_equal(slope(levels, W, KEY, CHIP), np.ones_like(W))


@pytest.mark.parametrize("mapping", ALL_MAPPINGS, ids=lambda m: m.kind)
@pytest.mark.parametrize("per", ["matrix", "column"])
def test_saturated_weights_have_no_slope(mapping, per):
    hardware = Hardware(mapping(clip=50.0, scale_per=per))
    limit = np.percentile(np.abs(W), 50, axis=None if per == "matrix" else 1)
    beyond = np.abs(W) > np.reshape(limit, (-1, 1)) * (1 + 1e-5)
    got = slope(hardware, W, KEY, CHIP)
    assert np.array_equal(got == 0, beyond)
    assert 0.3 < beyond.mean() < 0.6


def test_slopes_do_not_depend_on_chunks():
    w = numbers(300, 400).numpy()
    hardware = Hardware(drift=DRIFT, drift_per="weight")
    factor = DRIFT.apply(np.ones(w.size, np.float32), KEY, CHIP).reshape(w.shape)
    assert np.array_equal(slope(hardware, w, KEY, CHIP), factor)


@pytest.mark.parametrize("bias", ["digital", "row", "drifting"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_sends_a_gradient_to_its_clean_weights(name, bias):
    case = LAYERS[name]
    model = made(case.build)
    analog = to_analog(model, Hardware(), seed=3)
    plain = made(case.build)
    for m in (analog, plain):
        y = first(m(*case.inputs, **case.keywords))
        (y * numbers(len(y))).sum().backward()
    for (n, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        scale = float(q.grad.abs().max()) if q.grad is not None else 0.0
        assert (p.grad is None) == (q.grad is None), n
        if q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4 * scale + 1e-7)


def test_the_gradient_of_a_drifted_layer_is_that_of_its_product():
    hardware = Hardware(drift=LogNormalDrift(0.5), drift_per="weight", bias="drifting")
    model, x = made(lambda: nn.Linear(6, 5)), numbers(4, 6)
    analog = to_analog(model, hardware, 3, CHIP)
    factors = [
        torch.from_numpy(DRIFT.apply(np.ones(p.numel(), np.float32), Key(3).fold(n), CHIP)).reshape(p.shape)
        for n, p in model.named_parameters()
    ]
    w, b = (p.detach().clone().requires_grad_() for p in model.parameters())
    torch.nn.functional.linear(x, w * factors[0], b * factors[1]).square().sum().backward()
    analog(x).square().sum().backward()
    torch.testing.assert_close(model.weight.grad, w.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.bias.grad, b.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frozen", [False, True])
def test_two_chips_forward_before_one_backward(frozen):
    model, x = made(lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))), numbers(4, 6)
    model[2].requires_grad_(not frozen)
    analog = to_analog(model, PLAIN)
    alone = []
    for chip in (1, 2):
        set_chip(analog, chip)
        alone.append(torch.autograd.grad(analog(x).square().sum(), analog[0]._parameters["weight"])[0])
    total = 0
    for chip in (1, 2):
        set_chip(analog, chip)
        with torch.no_grad():
            analog(x)  # an evaluation in between, in the buffers
        total = total + analog(x).square().sum()
    (together,) = torch.autograd.grad(total, analog[0]._parameters["weight"])
    torch.testing.assert_close(together, alone[0] + alone[1])
    assert not torch.allclose(alone[0], alone[1], rtol=0.01)


def test_training_on_arrays_reduces_the_loss():
    model, x = made(lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))), numbers(32, 6)
    y = (x[:, 0] * x[:, 1] > 0).long()
    analog = to_analog(model, Hardware(Differential(1e-6, levels=64), drift=LogNormalDrift(0.2), bias="row"))
    optimiser = torch.optim.Adam(analog.parameters(), 0.03)
    losses = []
    for step in range(40):
        set_chip(analog, step % 4)
        loss = nn.functional.cross_entropy(analog(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])
