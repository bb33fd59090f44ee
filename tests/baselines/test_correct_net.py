"""CorrectNet: the penalty on singular values, and what it does to a trained network."""

import math

import pytest
import torch
from torch import nn

from crossbar_sim.baselines.correct_net import CorrectNet, penalty
from crossbar_sim.baselines.erm import Erm
from crossbar_sim.data import load_data
from crossbar_sim.errors import InputError
from crossbar_sim.nn import MLP
from crossbar_sim.nn.analog.matrices import trained_weights
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.rng import Key


def test_lambda_leaves_room_for_three_deviations_of_the_drift() -> None:
    """Against the moments of a log-normal variable by numerical integration."""
    z = torch.linspace(-9, 9, 20001, dtype=torch.float64)
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    factor = torch.exp(0.7 * z)
    mean = torch.trapezoid(factor * density, z)
    spread = (torch.trapezoid(factor**2 * density, z) - mean**2).sqrt()
    assert CorrectNet(sigma=0.7, k=2.0).bound == pytest.approx(2 / (mean + 3 * spread).item(), rel=1e-6)
    assert CorrectNet(sigma=0.0).bound == 1.0


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 2, 3, 3)])
def test_the_penalty_is_about_singular_values(shape: tuple[int, ...]) -> None:
    """sum (s^2 - lambda^2)^2; its gradient is that of |W^T W - lambda^2 I|^2 in the paper's order."""
    with seeded(Key(0)):
        weight = nn.Parameter(nn.init.normal_(torch.empty(shape, dtype=torch.float64)))
    value = penalty([weight], 0.6)
    matrix = weight.detach().flatten(1)
    assert value.item() == pytest.approx(((torch.linalg.svdvals(matrix) ** 2 - 0.36) ** 2).sum().item())
    (gradient,) = torch.autograd.grad(value, weight)
    paper = (weight.flatten(1).T @ weight.flatten(1) - 0.36 * torch.eye(matrix.shape[1])).square().sum()
    assert torch.allclose(gradient, torch.autograd.grad(paper, weight)[0])


def test_training_draws_singular_values_to_lambda() -> None:
    digits = load_data("digits").development

    def build() -> nn.Module:
        return MLP(inputs=64, hidden=(24,), classes=10)

    off = []
    how = Training(10, 64, 5e-3)
    for method in (Erm(how), CorrectNet(beta=0.1, training=how)):
        done = method.fit(build, digits, Key(0))
        assert done.report.validation_accuracy is not None
        assert done.report.validation_accuracy > 0.8
        off.append(penalty(trained_weights(done.model), CorrectNet().bound).item())
    assert done.notes["lambda"] == CorrectNet().bound
    assert off[1] < off[0] / 4


def test_what_it_cannot_do_is_one_sentence() -> None:
    digits = load_data("digits").development
    for settings, says in (({"beta": 0.0}, "beta=0.0"), ({"k": -1.0}, "k=-1.0"), ({"sigma": -1.0}, "sigma")):
        with pytest.raises(InputError, match=says):
            CorrectNet(**settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no layer with a weight matrix"):
        CorrectNet().fit(lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(64)), digits, Key(0))
