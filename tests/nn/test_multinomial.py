"""Multinomial dropout: its three values, its mean, and that it comes and goes without a trace."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossbar_sim.baselines.dropout import Dropout
from crossbar_sim.data import load_data
from crossbar_sim.errors import InputError
from crossbar_sim.nn import MLP
from crossbar_sim.nn.dropout_sites import rates
from crossbar_sim.nn.multinomial import MultinomialDropout, from_multinomial, to_multinomial
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.rng import Key
from crossbar_sim.search import BayesFT


@pytest.mark.parametrize("p", [0.0, 0.3, 0.8])
def test_three_values_with_their_probabilities_and_the_mean_is_kept(p: float) -> None:
    x = torch.full((40, 5, 10, 10), 3.0, dtype=torch.float64)
    with seeded(Key(0)):
        y = MultinomialDropout(p).train()(x)
    scale = 3 / (0.5 * (1 - p) / 2 + (1 - p) / 2)  # a value over the mean of its factor
    shares = [
        float(torch.isclose(y, torch.tensor(v, dtype=y.dtype)).double().mean()) for v in (0, scale / 2, scale)
    ]
    assert sum(shares) == pytest.approx(1.0)
    assert shares == pytest.approx([p, (1 - p) / 2, (1 - p) / 2], abs=0.015)
    assert float(y.mean()) == pytest.approx(3.0, rel=0.05)
    assert torch.equal(MultinomialDropout(p).eval()(x), x)


def test_the_gradient_goes_through_the_values_that_are_kept() -> None:
    x = torch.ones(200, requires_grad=True)
    with seeded(Key(0)):
        y = MultinomialDropout(0.4)(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())  # a product with constants


class Net(nn.Module):
    """A layer that drops channels, and one that stands in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.values = nn.Dropout2d(0.2), nn.Dropout(0.6)
        self.body = nn.Sequential(nn.Linear(64, 10), self.values)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return found


def test_layers_come_back_with_their_rates_and_kinds() -> None:
    model = Net()
    before = list(model.state_dict())
    to_multinomial(model)
    assert isinstance(model.channels, MultinomialDropout)
    assert model.values is model.body[1]
    assert rates(model) == {"channels": 0.2, "values": 0.6}
    assert list(model.state_dict()) == before
    from_multinomial(model)
    assert type(model.channels) is nn.Dropout2d
    assert type(model.body[1]) is nn.Dropout
    assert model.values is model.body[1]
    assert rates(model) == {"channels": 0.2, "values": 0.6}


class Own(nn.Dropout):
    """A dropout layer whose arguments are others."""

    def __init__(self, first: float, second: float) -> None:
        super().__init__(first + second, inplace=True)


def test_a_layer_of_a_class_of_ones_own_comes_back() -> None:
    layer = Own(0.1, 0.3)
    model = to_multinomial(nn.Sequential(nn.Linear(3, 3), layer))
    assert rates(model) == {"1": 0.4}
    model[1].p = 0.2
    from_multinomial(model)
    assert model[1] is layer
    assert layer.p == 0.2


def test_it_trains_like_dropout_but_is_another_noise() -> None:
    digits = load_data("digits").development

    def build() -> nn.Module:
        return MLP(inputs=64, hidden=(24, 12), classes=10)

    how = Training(6, 64, 1e-2)
    plain, other = (
        Dropout(0.2, training=how, multinomial=each).fit(build, digits, Key(0)) for each in (False, True)
    )
    assert other.notes == plain.notes
    assert [type(m) for m in other.model.modules()] == [type(m) for m in plain.model.modules()]
    assert other.report.history[0].loss != plain.report.history[0].loss
    assert other.report.validation_accuracy is not None
    assert other.report.validation_accuracy > 0.7


def test_rates_are_searched_with_it() -> None:
    digits = load_data("digits").development
    settings = {
        "trials": 2, "training_chips": 2, "chips": 2, "images": 20, "fresh_chips": 2, "polish": None,
        "training": Training(1, 200, 1e-2),
    }  # fmt: skip

    def build(dropout: tuple[float, ...] = (0.0,)) -> nn.Module:
        return MLP(inputs=64, hidden=(8,), classes=10, dropout=dropout)

    found = [
        BayesFT(**settings, noise=noise).fit(build, digits, Key(0)) for noise in ("dropout", "multinomial")
    ]  # type: ignore[arg-type]
    assert not any(isinstance(m, MultinomialDropout) for m in found[1].model.modules())
    assert found[0].notes["trial"] is not None
    assert any(
        not torch.equal(p, q)
        for p, q in zip(found[0].model.parameters(), found[1].model.parameters(), strict=True)
    )


def test_what_it_cannot_do_is_one_sentence() -> None:
    with pytest.raises(InputError, match="Linear has no dropout layer of its own"):
        to_multinomial(nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"dropout rate 1.0: a number in \[0, 1\)"):
        MultinomialDropout(1.0)
    with pytest.raises(InputError, match="alpha and multinomial are two kinds"):
        Dropout(0.1, alpha=True, multinomial=True)
    with pytest.raises(InputError, match="multinomial='no': true or false"):
        Dropout(0.1, multinomial="no")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="noise='gauss' must be one of dropout, multinomial"):
        BayesFT(noise="gauss")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "says"),
    [(lambda: None, "build made NoneType"), (nn.Sequential(nn.Dropout(0.1)), "fresh")],
)
def test_a_search_needs_a_function_that_makes_a_network(build: Any, says: str) -> None:
    data = load_data("moons").development
    for noise in ("dropout", "multinomial"):
        with pytest.raises(InputError, match=says):
            BayesFT(noise=noise).fit(build, data, Key(0))  # type: ignore[arg-type]


def test_names_of_earlier_trainings_are_what_they_were() -> None:
    assert "multinomial" not in repr(Dropout(0.1))
    assert "noise" not in repr(BayesFT())
    assert repr(Dropout(0.1, multinomial=True)).endswith("multinomial=True)")
