"""NeFT's oriented variational forward: loss and gradient against plain torch, and what it refuses."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from crossbar_sim.baselines.drifted_steps import TrainingChips
from crossbar_sim.baselines.negative_feedback import NegativeFeedback
from crossbar_sim.baselines.snapshots import WithHeads
from crossbar_sim.data.load import to_development
from crossbar_sim.errors import InputError
from crossbar_sim.nn.networks import build as build_network
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.nn.training.losses import LOSSES, TaskLoss
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.rng import Key


class Net(nn.Module):
    """One matrix used twice, a frozen one, a normalisation and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.norm = nn.Linear(6, 6), nn.Linear(6, 3), nn.BatchNorm1d(6)
        self.again = self.first
        self.last.bias.requires_grad_(False)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.again(torch.tanh(self.first(x)))
        return self.last(self.drop(torch.tanh(self.norm(hidden))))


def plain(x: Tensor, w: list[Tensor]) -> Tensor:
    """`Net` with parameters in their order."""
    first, first_bias, last, last_bias, scale, shift = w
    hidden = torch.tanh(x @ first.T + first_bias) @ first.T + first_bias
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt() * scale + shift
    return functional.dropout(torch.tanh(hidden), 0.5) @ last.T + last_bias


@pytest.fixture
def batch() -> tuple[nn.Module, Tensor, Tensor]:
    with seeded(Key(0)):
        return Net().train(), nn.init.normal_(torch.empty(8, 6)), torch.arange(8) % 3


def test_loss_and_gradient_are_those_of_the_formula(batch: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = batch
    sigmas = [0.4, 0.9, 0.5]
    method = NegativeFeedback(0.4, further=(0.5, 0.1), beta=0.3)
    parameters = list(model.parameters())
    before = [p.detach().clone() for p in parameters]
    with seeded(Key(1)):
        loss = method.step(Key(7))(model, x, y, 0.5)
    assert all(torch.equal(p, old) for p, old in zip(parameters, before, strict=True))
    found = [None if p.grad is None else p.grad.clone() for p in parameters]
    model.zero_grad()
    with seeded(Key(1)):
        chips = TrainingChips(model, 3, Key(7))
        chips.draw(sigmas)
        outs = [
            plain(x, [p * f[i] for p, f in zip(parameters, chips.factors, strict=True)]) for i in range(3)
        ]
        direct = functional.cross_entropy((outs[0] - 0.3 * outs[1] - 0.03 * outs[2]) / 3, y)
    direct.backward()
    spread = [math.log(chips.all[i].std()) for i in range(3)]
    assert spread[0] < spread[2] < spread[1]
    assert loss.item() == pytest.approx(direct.item(), rel=1e-5)
    for gradient, p in zip(found, parameters, strict=True):
        assert (gradient is None) == (p.grad is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, p.grad, rtol=1e-4, atol=1e-6)
    assert found[3] is None  # it is frozen, and drifts all the same


def test_every_chip_updates_the_statistics(batch: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = batch
    NegativeFeedback(further=(0.5, 0.1)).step(Key(7))(model, x, y, 0.5)
    assert int(model.get_buffer("norm.num_batches_tracked")) == 3


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sigma": -1.0}, "sigma"),
        ({"beta": 0.0}, "beta=0.0: a number above 0 and below 0.9"),
        ({"beta": math.nan}, "beta=nan: a number above 0"),
        ({"beta": 0.9}, "beta=0.9: .*outweigh the output"),
        ({"further": ()}, r"further=\(\)"),
        ({"further": (0.1, -0.1)}, r"further=\(0.1, -0.1\)"),
        ({"further": "0.1"}, r"further='0.1'"),
    ],
)
def test_bad_settings_are_one_sentence(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        NegativeFeedback(**settings)


def test_real_targets_are_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match="targets are real numbers"):
        NegativeFeedback().step(Key(0), TaskLoss(LOSSES["mse"], None))


def test_one_further_forward_may_be_a_number() -> None:
    assert NegativeFeedback(further=0.2).further == (0.2,)  # type: ignore[arg-type]


def test_it_trains_a_network_that_keeps_its_weights_in_a_list_and_computes_by_tokens() -> None:
    """Any torch model: an LSTM, whose weights are read from a list, and logits of shape (b, places, classes)."""

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.out = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.out(self.lstm(x)[0])
            return found

    with seeded(Key(3)):
        x = nn.init.normal_(torch.empty(96, 5, 3))
    data = {"train": (x, (x.sum(2) > 0).long()), "validation": (x[:32], (x[:32].sum(2) > 0).long())}
    done = NegativeFeedback(0.2, training=Training(8, 24, 4e-2)).fit(Tagger, to_development(data), Key(0))
    assert done.report.validation_accuracy is not None
    assert done.report.validation_accuracy > 0.8
    assert done.notes["sigmas"] == pytest.approx([0.2, 0.35, 0.3, 0.25])


def test_snapshots_are_the_formula_with_heads_on_layers() -> None:
    """Against plain torch, heads drifting too."""
    with seeded(Key(0)):
        network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
        x, y = nn.init.normal_(torch.empty(8, 6)), torch.arange(8) % 3
    method = NegativeFeedback(0.5, beta=0.4, feedback="snapshots")
    model = WithHeads(network, x, Key(2)).train()
    assert model.names == ["1", "3"]
    parameters = list(model.parameters())
    with seeded(Key(1)):
        loss = method.step(Key(7))(model, x, y, 0.5)
    found = [p.grad.clone() for p in parameters if p.grad is not None]
    model.zero_grad()
    with seeded(Key(1)):
        chips = TrainingChips(model, 1, Key(7))
        chips.draw([0.5])
    w = [p * f[0] for p, f in zip(parameters, chips.factors, strict=True)]
    first = torch.tanh(x @ w[0].T + w[1])
    second = torch.relu(first @ w[2].T + w[3])
    heads = [torch.relu(h @ a.T + b) @ c.T + d for h, (a, b, c, d) in ((first, w[6:10]), (second, w[10:14]))]
    direct = functional.cross_entropy((second @ w[4].T + w[5] - 0.4 * heads[0] - 0.04 * heads[1]) / 3, y)
    direct.backward()
    assert loss.item() == pytest.approx(direct.item(), rel=1e-5)
    assert len(found) == len(parameters) == 14
    for gradient, p in zip(found, parameters, strict=True):
        torch.testing.assert_close(gradient, p.grad, rtol=1e-4, atol=1e-6)
    assert not model.seen


def test_a_network_with_dropout_of_its_own_has_one_head_at_each() -> None:
    network = build_network("lenet5", size=28)
    assert WithHeads(network, torch.zeros(1, 1, 28, 28), Key(0)).names == [f"dropout{i}" for i in range(1, 5)]


def test_the_network_comes_back_without_heads() -> None:
    with seeded(Key(3)):
        x = nn.init.normal_(torch.empty(60, 1, 6, 6))
    y = (x.sum((1, 2, 3)) > 0).long()

    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))

    data = to_development({"train": (x, y), "validation": (x[:30], y[:30])})
    method = NegativeFeedback(0.1, training=Training(8, 20, 1e-2), feedback="snapshots")
    done = method.fit(build, data, Key(0))
    assert list(done.model.state_dict()) == list(build().state_dict())
    assert not any(module._forward_hooks for module in done.model.modules())
    assert done.notes["heads"] == ["1"]
    assert done.notes["weights"] == [1e-3]
    assert done.report.validation_accuracy is not None
    assert done.report.validation_accuracy > 0.7


def test_what_snapshots_cannot_do_is_one_sentence() -> None:
    with pytest.raises(InputError, match="feedback='heads' must be one of forwards, snapshots"):
        NegativeFeedback(feedback="heads")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"logits of shape \(b, classes\) are needed"):
        WithHeads(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(2, 5, 3), Key(0))
    tokens = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(20, 2))
    with pytest.raises(InputError, match=r"1 gives \(1, 5, 4\), and a head takes"):
        WithHeads(tokens, torch.ones(2, 5, 3), Key(0))
    idle = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    idle.never = nn.Dropout(0.1)
    idle.forward = lambda x: idle[1](idle[0](x))  # type: ignore[method-assign]
    with pytest.raises(InputError, match="the forward of Sequential calls none of never"):
        WithHeads(idle, torch.ones(2, 3), Key(0))
    with pytest.raises(InputError, match=r"further=\(0.1,\) has no effect with feedback=snapshots"):
        NegativeFeedback(further=(0.1,), feedback="snapshots")
    assert "feedback" not in repr(NegativeFeedback())


@pytest.mark.parametrize("feedback", ["forwards", "snapshots"])
def test_chips_are_drawn_where_the_training_is(feedback: Any) -> None:
    for device, drawn in (("cpu", "_draw_by_kernels"), ("torch:cpu", "_draw_on_tensors")):
        method = NegativeFeedback(training=Training(device=device), feedback=feedback)
        step: Any = method.step(Key(0))
        assert step.chips.of(nn.Linear(2, 2)).draws.__name__ == drawn
