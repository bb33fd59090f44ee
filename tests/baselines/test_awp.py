"""AWP: the worst weights nearby, one gradient there, and back to the bit."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from crossbar_sim import Key
from crossbar_sim.baselines.awp import Awp, attack, perturbed, value_range
from crossbar_sim.errors import InputError
from crossbar_sim.nn.networks import build
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.nn.training.settings import Training

SHORT = Training(epochs=15, batch=64, lr=1e-2)

pytestmark = pytest.mark.filterwarnings("ignore:the clean model is right on")  # after few epochs


def mlp() -> nn.Module:
    return build("mlp", inputs=64, hidden=(16,), classes=10)


@pytest.fixture
def batch(digits):
    return digits.train.x[:32], digits.train.y[:32]


@pytest.fixture
def model():
    with seeded(Key(0).fold("test")):
        return mlp().train()


def watched(model, x):
    """The weights at which each forward of a step runs."""
    seen = []
    hook = model.register_forward_pre_hook(
        lambda *_: seen.append([p.detach().clone() for p in model.parameters()])
    )
    return seen, hook


def test_weights_are_restored_to_the_bit_and_the_gradient_is_that_of_the_perturbed_ones(model, batch):
    before = [p.detach().clone() for p in model.parameters()]
    seen, hook = watched(model, batch[0])
    loss = Awp(gamma=0.05).step(model, *batch)
    hook.remove()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    gradients = [p.grad.clone() for p in model.parameters()]
    with torch.no_grad():
        for p, value in zip(model.parameters(), seen[1], strict=True):
            p.copy_(value)
    model.zero_grad()
    direct = functional.cross_entropy(model(batch[0]), batch[1])
    direct.backward()
    assert torch.equal(loss, direct.detach())
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, model.parameters(), strict=True))


def test_each_matrix_moves_by_gamma_of_its_norm_along_its_gradient_and_biases_do_not(model, batch):
    seen, hook = watched(model, batch[0])
    Awp(gamma=0.05).step(model, *batch)
    hook.remove()
    model.zero_grad()
    functional.cross_entropy(model(batch[0]), batch[1]).backward()
    for (name, p), clean, moved in zip(model.named_parameters(), *seen, strict=True):
        v = moved - clean
        if name.endswith("bias"):
            assert not v.any()
            continue
        assert float(v.norm() / clean.norm()) == pytest.approx(0.05, rel=1e-4)
        assert float(functional.cosine_similarity(v.flatten(), p.grad.flatten(), 0)) == pytest.approx(
            1, abs=1e-4
        )


def test_the_perturbation_raises_the_loss(model, batch):
    clean = functional.cross_entropy(model(batch[0]), batch[1]).item()
    assert Awp(gamma=0.2).step(model, *batch).item() > clean


def test_as_published_it_accumulates(model, batch):
    first = [p.detach().clone() for _, p in perturbed(model)]
    for _ in range(3):
        Awp(gamma=0.05, as_published=True).step(model, *batch)
    gone = [
        float((p.detach() - q).norm() / q.norm()) for (_, p), q in zip(perturbed(model), first, strict=True)
    ]
    assert min(gone) > 0.08


def test_tied_weights_are_perturbed_once(batch):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x.flatten(1)).relu())

    model = Tied()
    seen, hook = watched(model, batch[0])
    before = model.a.weight.detach().clone()
    Awp(gamma=0.1).step(model, *batch)
    hook.remove()
    assert float((seen[1][0] - seen[0][0]).norm() / before.norm()) == pytest.approx(0.1, rel=1e-4)
    assert torch.equal(model.a.weight, before)
    assert model.b.weight is model.a.weight


def test_normalisation_is_neither_perturbed_nor_its_statistics_taken_twice(batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)).train()
    assert [name for name, _ in perturbed(model)] == ["1.weight", "3.weight"]
    Awp().step(model, *batch)
    assert int(model[2].num_batches_tracked) == 1


@pytest.mark.parametrize("steps", [1, 5])
def test_the_input_attack_stays_within_epsilon_and_range_and_raises_the_loss(network, batch, steps):
    x, y = batch
    within = value_range(x)
    network.train()
    found = attack(network, x, y, 0.2, steps, within)
    assert network.training
    network.eval()
    assert float((found - x).abs().max()) <= 0.2 + 1e-6
    assert bool((found >= within[0]).all())
    assert bool((found <= within[1]).all())
    assert functional.cross_entropy(network(found), y) > functional.cross_entropy(network(x), y)
    assert all(p.grad is None for p in network.parameters())


def test_the_range_is_per_channel_where_there_are_channels():
    x = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)], 1)
    low, high = value_range(x)
    assert low.shape == (2, 1, 1)
    assert low.flatten().tolist() == high.flatten().tolist() == [0, 1]
    assert value_range(torch.tensor([[1.0, 2.0], [3.0, -4.0]])) == (-4, 3)


@pytest.mark.parametrize(
    "method", [Awp(training=SHORT), Awp(input_attack=0.1, attack_steps=2, training=SHORT)]
)
def test_it_learns_and_the_same_key_gives_the_same_bytes(digits, method):
    a, b = (method.fit(mlp, digits.development, Key(3)) for _ in range(2))
    assert a.report.validation_accuracy > 0.8
    assert a.notes["perturbed"] == ["fc1.weight", "fc2.weight"]
    assert all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True))


def test_a_killed_training_ends_with_the_same_bytes(digits, tmp_path):
    class Killed(Exception):
        pass

    def kill(epoch):
        if epoch.number == 2:
            raise Killed

    method = Awp(input_attack=0.1, attack_steps=2, training=Training(epochs=4))
    with pytest.raises(Killed):
        method.fit(mlp, digits.development, Key(0), progress=kill, checkpoint=tmp_path / "part.pt")
    resumed = method.fit(mlp, digits.development, Key(0), checkpoint=tmp_path / "part.pt")
    whole = method.fit(mlp, digits.development, Key(0))
    for p, q in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_negative_control_another_key_gives_other_weights(digits):
    a, b = (Awp(training=Training(epochs=1)).fit(mlp, digits.development, Key(k)) for k in (0, 1))
    assert not torch.equal(a.model.fc1.weight, b.model.fc1.weight)


@pytest.mark.parametrize(
    "given",
    [
        {"gamma": 0},
        {"gamma": math.nan},
        {"gamma": True},
        {"input_attack": -1},
        {"input_attack": math.inf},
        {"attack_steps": 0},
        {"attack_steps": 1.5},
    ],
)
def test_impossible_settings_are_one_sentence(given):
    with pytest.raises(InputError, match=next(iter(given))):
        Awp(**given)


def test_a_test_split_and_a_model_without_matrices_are_refused(digits):
    with pytest.raises(InputError, match="Development"):
        Awp(training=SHORT).fit(mlp, digits, Key(0))
    with pytest.raises(InputError, match="nothing to perturb"):
        perturbed(nn.BatchNorm1d(4))
