"""Drift-aware training: its gradient, its draws, its routes."""

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from crossbar_sim.baselines.drift_aware import DriftAware, factor_copies, squared, weight_layers
from crossbar_sim.baselines.drifted_steps import (
    AnalogStep,
    DriftedStep,
    TrainingChips,
    as_deployed,
    batched,
    chip_by_chip,
)
from crossbar_sim.baselines.drifted_steps import BatchedSequence as Sequence
from crossbar_sim.crossbar.drift import LogNormalDrift, NormalDrift
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.mapping import Differential
from crossbar_sim.data import Development, load_data
from crossbar_sim.errors import InputError, silenced_warnings
from crossbar_sim.nn import MLP, LeNet5
from crossbar_sim.nn.analog.chips import layers as layers_of
from crossbar_sim.nn.analog.chips import set_chip
from crossbar_sim.nn.analog.conversion import map_model, to_analog
from crossbar_sim.nn.seeding import normals, seeded
from crossbar_sim.nn.training.loop import accuracy, fit
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.rng import Key
from crossbar_sim.search import BayesFT


@pytest.fixture(scope="module")
def digits() -> Development:
    return load_data("digits").development


def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with seeded(Key(0)):
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def examples(n: int = 10, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    x = torch.sin(torch.arange(n * 6, dtype=dtype) * 1.7).reshape(n, 1, 2, 3)
    return x, torch.arange(n) % 3


class Fixed:
    """Stands in for `TrainingChips`: the factors that a test wants, of any dtype."""

    def __init__(self, model: nn.Module, chips: int) -> None:
        self.parameters = list(model.parameters())
        self.factors = []
        start = 0.3
        for p in self.parameters:
            z = torch.cos(torch.arange(chips * p.numel(), dtype=p.dtype) * 2.3 + start)
            self.factors.append(torch.exp(z).reshape(chips, *p.shape))
            start += 1


def loss_of(model: nn.Module, drawn: Any, x: Tensor, y: Tensor, temperatures: list[float]) -> Tensor:
    """The twin: a differentiable function of the parameters, chip by chip, example by example."""
    chips = len(temperatures)
    names = [name for name, _ in model.named_parameters()]
    total = torch.zeros((), dtype=x.dtype)
    for chip, index in enumerate(torch.arange(len(x)).tensor_split(chips)):
        drifted = {n: p * f[chip] for n, p, f in zip(names, model.parameters(), drawn.factors, strict=True)}
        for i in index.tolist():
            logits = torch.func.functional_call(model, drifted, (x[i : i + 1],)) * temperatures[chip]
            total = total + functional.cross_entropy(logits, y[i : i + 1]) / len(x)
    return total


TEMPERATURES = [1.0, 0.5, 0.8]


def by_products(model: nn.Module, drawn: Any, x: Tensor, y: Tensor, t: list[float]) -> Tensor:
    sequence = Sequence.of(model)
    assert sequence is not None
    return batched(sequence, drawn, x, y, t)


@pytest.mark.parametrize("route", [chip_by_chip, by_products])
@pytest.mark.parametrize("n", [9, 10, 11, 3])
def test_the_gradient_is_that_of_the_twin(route: Any, n: int) -> None:
    model = net(torch.float64)
    x, y = examples(n, torch.float64)
    drawn = Fixed(model, 3)
    loss = route(model, drawn, x, y, TEMPERATURES)
    twin = loss_of(model, drawn, x, y, TEMPERATURES)
    assert loss.item() == pytest.approx(twin.item(), rel=1e-6)
    for p, expected in zip(
        model.parameters(), torch.autograd.grad(twin, list(model.parameters())), strict=True
    ):
        assert p.grad is not None
        assert torch.allclose(p.grad, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("route", [chip_by_chip, by_products])
def test_the_gradient_is_the_slope_of_the_loss(route: Any) -> None:
    """Central differences of the twin's loss along one direction; a gradient without its factors is not it."""
    model = net(torch.float64)
    x, y = examples(8, torch.float64)
    drawn = Fixed(model, 2)
    route(model, drawn, x, y, [1.0, 0.7])
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    step = 1e-5
    with torch.no_grad():
        directions = [
            torch.cos(torch.arange(p.numel()).double()).reshape(p.shape) for p in model.parameters()
        ]
        values = []
        for sign in (1, -2):
            for p, d in zip(model.parameters(), directions, strict=True):
                p.add_(sign * step * d)
            values.append(loss_of(model, drawn, x, y, [1.0, 0.7]).item())
    slope = (values[0] - values[1]) / (2 * step)
    ours = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
    assert ours == pytest.approx(slope, rel=1e-7)
    straight_through = sum(
        (g / f[0] * d).sum().item() for g, d, f in zip(gradients, directions, drawn.factors, strict=True)
    )
    assert straight_through != pytest.approx(slope, rel=1e-2)


def test_both_routes_take_the_same_step_with_real_draws() -> None:
    x, y = examples(11)
    found = []
    for by_product in (True, False):
        model = net()
        step = DriftedStep(lambda share, chips: [0.5, 1.0, 1.5][:chips], 3, 2, Key(4), batched=by_product)
        with seeded(Key(1)):
            loss = step(model, x, y, 0.5)
        found.append((loss, [p.grad for p in model.parameters()]))
    assert found[0][0].item() == pytest.approx(found[1][0].item(), rel=1e-5)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-7)


def test_parameters_are_as_they_were_also_when_the_forward_fails() -> None:
    x, y = examples()
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    step = DriftedStep(lambda share, chips: [1.0] * chips, 4, 2, Key(0), batched=False)
    for labels in (y, y + 100):  # the second are no classes of the model
        try:
            step(model, x, labels, 0.0)
        except IndexError:
            assert labels is not y
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_chips_are_fresh_named_and_lognormal() -> None:
    """ln of the factors has the sigma of its chip; n = 20,000, so 4 standard errors are 2 % of it."""
    model = nn.Linear(400, 50)
    chips = TrainingChips(model, 2, Key(0))
    with seeded(Key(7)):
        chips.draw([0.5, 1.0])
        first = chips.all.clone()
        chips.draw([0.5, 1.0])
        second = chips.all.clone()
    with seeded(Key(7)):
        chips.draw([0.5, 1.0])
    assert torch.equal(chips.all, first)
    assert not torch.isclose(first, second).float().mean() > 0.01
    logs = first.log()
    assert logs.std(1).tolist() == pytest.approx([0.5, 1.0], rel=0.02)
    assert logs.mean(1).tolist() == pytest.approx([0, 0], abs=0.03)
    assert abs(torch.corrcoef(torch.stack([logs[0], logs[1], second[0].log()]))[0, 1:]).max() < 0.03
    assert not torch.isclose(logs[0].mul(2).exp(), first[1]).float().mean() > 0.01  # not one chip twice


def test_training_chips_are_none_that_an_evaluation_meets() -> None:
    model = nn.Linear(40, 30)
    chips = TrainingChips(model, 4, Key(0))
    with seeded(Key(7)):
        chips.draw([1.0] * 4)
    analog = to_analog(model, Hardware.preset("bayesft", sigma=1.0), seed=0)
    for chip in range(20):
        set_chip(analog, chip)
        with torch.no_grad():
            factors = analog.weight / model.weight
        for mine in chips.factors[0]:
            assert torch.isclose(factors, mine).float().mean() < 0.01


def test_copies_average_their_factors() -> None:
    model = nn.Linear(300, 100)
    spread = []
    for copies in (1, 4):
        chips = TrainingChips(model, 2, Key(0), copies)
        with seeded(Key(1)):
            chips.draw([0.5, 0.5])
        spread.append(chips.all.var().item())
        assert chips.all.mean().item() == pytest.approx(math.exp(0.125), rel=0.02)
    assert spread[0] / spread[1] == pytest.approx(4, rel=0.15)


def test_sigma_rises_is_fixed_or_is_drawn() -> None:
    assert DriftAware(1.0, ramp=0.5).sigmas(0.25, 2) == [0.5, 0.5]
    assert DriftAware(1.0, ramp=0.5).sigmas(0.75, 2) == [1.0, 1.0]
    assert DriftAware(1.0, ramp=0).sigmas(0.0, 1) == [1.0]
    with seeded(Key(0)):
        drawn = DriftAware((0.2, 0.6), ramp=0).sigmas(0.0, 2000)
        half = DriftAware((0.2, 0.6), ramp=1).sigmas(0.5, 2000)
    assert 0.2 <= min(drawn) < 0.21
    assert 0.59 < max(drawn) <= 0.6
    assert np.mean(drawn) == pytest.approx(0.4, abs=0.01)
    assert max(half) <= 0.3


def test_the_temperature_is_that_of_the_layers() -> None:
    assert weight_layers(MLP()) == 3
    model, (x, y) = net(), examples(4)
    chips = TrainingChips(model, 1, Key(0))
    losses = []
    for layers in (0, 2):
        step = DriftedStep(lambda share, n: [1.0] * n, 1, layers, Key(0))
        with seeded(Key(3)):
            losses.append(step(model, x, y, 0.0).item())
    with seeded(Key(3)):
        chips.draw([1.0])
    for layers, loss in zip((0, 2), losses, strict=True):
        assert loss == pytest.approx(loss_of(model, chips, x, y, [math.exp(-layers / 2)]).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("model", "is_one"),
    [
        (MLP(dropout=0.2), True),
        (net(), True),
        (nn.Sequential(nn.Linear(4, 4), nn.AlphaDropout(0.1), nn.GELU(), nn.Linear(4, 2)), True),
        (LeNet5(), False),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), False),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)), False),
        (nn.Sequential(nn.ReLU()), False),
    ],
)
def test_which_networks_run_by_products(model: nn.Module, is_one: bool) -> None:
    assert (Sequence.of(model) is not None) is is_one


def test_any_network_trains(digits: Development) -> None:
    """Convolutions, and batch normalisation with its buffers, chip by chip."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
        )

    method = DriftAware(0.3, chips=4, training=Training(3, 100, 5e-3))
    trained = method.fit(build, digits, Key(0))
    assert trained.report.validation_accuracy is not None
    assert trained.report.validation_accuracy > 0.8


def test_it_survives_drift_that_plain_training_does_not(digits: Development) -> None:
    """At sigma 1 on 20 fresh chips: the mean of each, apart by far more than their spread."""
    from crossbar_sim.baselines.erm import Erm

    def build() -> nn.Module:
        return MLP(inputs=64, hidden=(48, 24), classes=10)

    assert digits.validation.y is not None
    means = []
    for method in (
        Erm(Training(20, 64, 5e-3)),
        DriftAware(0.9, chips=8, training=Training(20, 64, 5e-3, clip=0.1)),
    ):
        model = method.fit(build, digits, Key(0)).model
        analog = to_analog(model, Hardware.preset("bayesft", sigma=1.0))
        scores = []
        for chip in range(20):
            set_chip(analog, chip)
            scores.append(accuracy(analog, digits.validation.x, digits.validation.y))
        means.append(np.mean(scores))
    assert means[1] > means[0] + 0.2


HARSH = Hardware(Differential(g_min=1e-6, g_max=1e-4, levels=16), drift=LogNormalDrift(0.3))


def test_a_design_of_its_own_trains_on_its_arrays(digits: Development) -> None:
    def build() -> nn.Module:
        return MLP(inputs=64, hidden=(24,), classes=10)

    method = DriftAware(0.4, chips=4, hardware=HARSH, training=Training(8, 100, 1e-2))
    model = build()
    assert isinstance(method.step(model, Key(0)), AnalogStep)
    trained = method.fit(build, digits, Key(0))
    assert trained.report.validation_accuracy is not None
    assert trained.report.validation_accuracy > 0.8
    as_it_is = DriftAware(None, ramp=0, temperature=False, chips=4, hardware=HARSH, training=Training(1, 100))
    assert as_it_is.fit(build, digits, Key(0)).report.epochs == 1


def test_the_arrays_follow_the_weights_that_train() -> None:
    """Arrays are programmed from this step's weights, not from those of the first one."""
    x, y = examples()
    model = net()
    step = AnalogStep(Hardware.preset("bayesft"), lambda share, n: [0.0] * n, 2, 0, Key(0))
    for _ in range(3):
        loss = step(model, x, y, 0.0)
        assert loss.item() == pytest.approx(functional.cross_entropy(model(x), y).item(), rel=1e-5)
        with torch.no_grad():
            for p in model.parameters():
                p.data.sub_(p.grad)
                p.grad = None


def test_on_arrays_pure_drift_has_the_gradient_of_the_factors() -> None:
    """The two routes on the same chip: the arrays' own factors, read off them, put into the other."""
    x, y = examples(6)
    model = net()
    step = AnalogStep(Hardware.preset("bayesft"), lambda share, n: [0.8] * n, 1, 2, Key(0))
    with seeded(Key(5)):
        loss = step(model, x, y, 0.0)
    gradients = [p.grad.clone() for p in model.parameters()]
    analog, _ = step._analog(model, x)
    drawn = Fixed(model, 1)
    with torch.no_grad():
        read = [t for m in (analog[1], analog[3]) for t in (m.weight, m.bias)]
        drawn.factors = [(a / p).unsqueeze(0) for a, p in zip(read, model.parameters(), strict=True)]
    for p in model.parameters():
        p.grad = None
    other = chip_by_chip(model, drawn, x, y, [math.exp(-2 * 0.8**2 / 2)])  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(other.item(), rel=1e-4)
    for gradient, p in zip(gradients, model.parameters(), strict=True):
        assert torch.allclose(gradient, p.grad, rtol=1e-3, atol=1e-6)


class Ternary(nn.Linear):
    """Computes with the signs of its larger weights."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        signs = (w.abs() > w.abs().mean() / 2) * w.sign()
        return functional.linear(x, w + (signs - w).detach(), self.bias)


class Standardised(nn.Linear):
    """Computes with its weight less the mean of each row."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class Pair(nn.Module):
    """Two layers; `way` says how the second is run."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.a, self.b = way, nn.Linear(6, 6), nn.Linear(6, 6)
        weight, layer = self.b.weight, self.b
        if way == "shared":
            self.b.weight = self.a.weight
        self.__dict__["kept"] = {"closure": lambda: weight, "foreign": lambda: layer}.get(way)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x.flatten(1)))
        if self.way == "handed":
            return torch.func.functional_call(  # type: ignore[no-any-return]
                self.b, {"weight": torch.tanh(self.b.weight), "bias": self.b.bias}, (h,)
            )
        if self.way == "closure":
            return functional.linear(h, self.kept(), self.b.bias)
        if self.way == "foreign":
            return self.kept()(h)  # type: ignore[no-any-return]
        if self.way == "aux" and not self.training:
            return h
        if self.way == "class" and type(self.b) is not nn.Linear:
            return h
        return self.b(h)


KINDS: dict[str, tuple[Any, set[str], str]] = {
    # how the network is made, the names of its digital layers, what the warning says
    "ordinary": (lambda: Pair(""), set(), ""),
    "ternary": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 6), Ternary(6, 6)),
        {"2"},
        "2: its forward computes another",
    ),
    "standardised": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 6), Standardised(6, 6)),
        {"2"},
        "2: its forward computes another",
    ),
    "parametrised": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(6, 6), nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        ),
        {"2", "2.parametrizations.weight"},
        "computed by a parametrization",
    ),
    "shared": (lambda: Pair("shared"), set(), ""),
    "functional_call": (lambda: Pair("handed"), {"b"}, "b: its forward computes another weight"),
    "closure": (lambda: Pair("closure"), {"b"}, "b: its forward takes the clean weight past its array"),
    "closure of a layer": (lambda: Pair("foreign"), set(), ""),
    "in training only": (lambda: Pair("aux"), {"b"}, "b: no product of this forward reads it"),
    "compares classes": (lambda: Pair("class"), set(), ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_training_has_the_layers_of_an_evaluation_on_arrays(kind: str) -> None:
    """The same mapping as `map_model` gives for an evaluation."""
    make, digital, says = KINDS[kind]
    x, y = examples()
    design = Hardware.preset("bayesft", bias="digital", normalisation="digital", other="digital")
    with seeded(Key(1)):
        model = make().train()
    step = AnalogStep(design, lambda share, n: [0.5] * n, 2, 2, Key(0))
    before = torch.get_rng_state()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        as_deployed(model, design, x, 0)
        assert torch.equal(torch.get_rng_state(), before)
        first = len(said)
        for _ in range(2):
            step(model, x, y, 0.0)
    analog, count = step._analog(model, x)
    found = {layer.name: layer.analog for layer in layers_of(analog)}
    with silenced_warnings():
        wanted = layers_of(map_model(model.eval(), design, x)[0])
    assert found == {layer.name: layer.analog for layer in wanted}
    assert {name for name, on in found.items() if not on} == digital
    assert count == 2 - (bool(digital) and kind != "parametrised")
    told = [str(each.message) for each in said]
    assert len(told) == 2 * first == (2 if says else 0)  # once by each
    assert all(says in each for each in told)


@pytest.mark.parametrize(
    ("kind", "arrays"),
    [
        ("ordinary", False),
        ("shared", False),
        ("ternary", False),
        ("closure", True),
        ("functional_call", False),
    ],
)
def test_factors_become_arrays_where_parameters_pass_their_cells(kind: str, arrays: bool) -> None:
    """By BayesFT's protocol a computed weight's parameter drifts too; one that is taken past its cells does not."""
    x, y = examples()
    with seeded(Key(1)):
        model = KINDS[kind][0]()
    step = DriftAware(sigma=0.5, chips=2).step(model.train(), Key(0))
    assert isinstance(step, DriftedStep)
    with seeded(Key(3)), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loss = step(model, x, y, 1.0)
    assert step._of is not None
    assert (step._of[3] is not None) == arrays == bool(said)
    plain = DriftedStep(step.sigmas, 2, step.layers, Key(0))
    model.zero_grad()
    with seeded(Key(3)):
        assert torch.equal(plain(model, x, y, 1.0), loss) != arrays


def test_which_designs_are_factors() -> None:
    assert factor_copies(None) == 1
    assert factor_copies(Hardware.preset("bayesft", copies=4)) == 4
    for other in (
        HARSH,
        Hardware(),
        Hardware.preset("bayesft", stuck_off=0.01),
        replace(Hardware.preset("bayesft"), mapping=Differential(g_min=1e-6)),
    ):
        assert factor_copies(other) is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sigma": -1.0}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"sigma": 0.0}, "nothing drifts"),
        ({"sigma": (0.6, 0.2)}, "low <= high"),
        ({"sigma": (0.1, 0.2, 0.3)}, "low, high"),
        ({"sigma": None}, "no hardware"),
        ({"sigma": None, "hardware": HARSH}, "ramp=0"),
        ({"chips": 0}, "chips=0"),
        ({"chips": 64, "training": Training(1, 32)}, "batch=32"),
        ({"ramp": 1.5}, "ramp=1.5"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"parameters": "cube"}, "plain, square"),
        ({"statistics": "mean"}, "running, population"),
        ({"censor": float("inf")}, "censor=inf"),
        ({"censor": 1.0, "hardware": HARSH}, "does more than multiply"),
        ({"hardware": Hardware(drift=NormalDrift(0.1))}, "temperature=False"),
    ],
)
def test_impossible_settings_are_one_sentence(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        DriftAware(**options)
    assert "\n" not in str(caught.value)


class Mixed(nn.Module):
    """Two matrices, two biases, a normalisation and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x.flatten(1)))) * self.scale)


@pytest.mark.parametrize("clip", [None, 0.02])
def test_squares_are_trained_through_their_roots(clip: float | None) -> None:
    """Twenty lines of plain torch: AdamW on u for the matrices, on w for the rest, all gradients by autograd."""
    x, y = examples(8)
    with seeded(Key(0)):
        model = Mixed()
    twin = Mixed()
    twin.load_state_dict(model.state_dict())
    how = Training(epochs=30, batch=8, lr=0.05, schedule="constant", weight_decay=0.1, clip=clip)
    report = fit(model, (x, y), training=how, squared=squared(model, "square"))
    free = {
        name: (p.sign() * p.abs().sqrt() if p.dim() == 2 else p).detach().requires_grad_()
        for name, p in twin.named_parameters()
    }
    adam = torch.optim.AdamW(free.values(), 0.05, weight_decay=0.1)
    for _ in range(30):
        adam.zero_grad()
        made = {name: u * u.abs() if u.dim() == 2 else u for name, u in free.items()}
        loss = functional.cross_entropy(torch.func.functional_call(twin, made, (x,)), y)
        loss.backward()
        if clip is not None:
            for u in free.values():
                u.grad.clamp_(-clip, clip)
        adam.step()
    assert report.history[-1].loss == pytest.approx(loss.item(), rel=1e-3)
    for name, p in model.named_parameters():
        wanted = free[name] * free[name].abs() if p.dim() == 2 else free[name]
        assert torch.allclose(p, wanted, rtol=1e-3, atol=1e-5), name


def test_squares_resume_bit_for_bit_and_are_another_training(digits: Development, tmp_path: Path) -> None:
    def build() -> nn.Module:
        return MLP(inputs=64, hidden=(8,), classes=10)

    method = DriftAware(0.5, chips=2, parameters="square", training=Training(3, 256, 1e-2, clip=0.1))
    whole = method.fit(build, digits, Key(0)).model.state_dict()

    def stop(epoch: Any) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.fit(build, digits, Key(0), checkpoint=tmp_path / "state", progress=stop)
    resumed = method.fit(build, digits, Key(0), checkpoint=tmp_path / "state").model.state_dict()
    plain = replace(method, parameters="plain").fit(build, digits, Key(0)).model.state_dict()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name])
        assert not torch.equal(value, plain[name])
    with pytest.raises(InputError, match="another method"):
        replace(method, parameters="plain").fit(build, digits, Key(0), checkpoint=tmp_path / "state")


def test_what_is_squared_and_how_methods_are_named() -> None:
    model = Mixed()
    model.last.weight = nn.Parameter(model.last.weight.detach(), requires_grad=False)
    assert [id(p) for p in squared(model, "square")] == [id(model.first.weight)]
    assert squared(model, "plain") == []
    with pytest.raises(InputError, match="nothing to act on"):
        squared(nn.LayerNorm(3), "square")
    # by which checkpoints, studies and experiments of earlier versions know them
    assert "parameters" not in repr(DriftAware()) + repr(BayesFT())
    assert repr(DriftAware(parameters="square")).endswith("parameters='square')")
    assert repr(BayesFT(parameters="square")).endswith("parameters='square')")


def test_a_search_trains_squares(digits: Development) -> None:
    def build() -> nn.Module:
        return MLP(inputs=64, hidden=(8,), classes=10)

    found = []
    for parameters in ("plain", "square"):
        method = BayesFT(
            0.5,
            trials=1,
            training_chips=2,
            chips=2,
            images=50,
            fresh_chips=2,
            polish=None,
            parameters=parameters,
        )
        found.append(method.fit(build, digits, Key(0)).model.state_dict())
    assert not torch.equal(found[0]["fc1.weight"], found[1]["fc1.weight"])


def convolved() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


@pytest.mark.parametrize("hardware", [None, Hardware.preset("bayesft", levels=256)])
def test_population_statistics_are_means_over_chips(digits: Development, hardware: Any) -> None:
    """Against the mean over 300 chips in plain torch; the variances of the clean weights are smaller."""
    method = DriftAware(
        0.4, chips=4, hardware=hardware, statistics="population", training=Training(1, 256, 1e-9)
    )
    model = method.fit(convolved, digits, Key(0)).model
    layer, norm = model[0], model[1]
    assert not model.training
    assert norm.momentum == 0.1
    before = [p.detach().clone() for p in layer.parameters()]
    images = digits.train.x[
        torch.randperm(len(digits.train.x), generator=torch.Generator().manual_seed(0))[:200]
    ]
    found = []
    with torch.no_grad(), seeded(Key(9)):
        for chip in range(301):
            sigma = 0.0 if chip == 300 else 0.4
            weight, bias = (p * torch.exp(sigma * normals(p.numel(), p.device).view_as(p)) for p in before)
            out = functional.conv2d(images, weight, bias)
            found.append(torch.stack([out.mean((0, 2, 3)), out.var((0, 2, 3))]))
    clean, (mean, var) = found.pop(), torch.stack(found).mean(0)
    assert torch.allclose(norm.running_var, var, rtol=0.2)
    assert torch.allclose(norm.running_mean, mean, atol=0.15 * var.sqrt().max().item())
    assert (clean[1] / var).mean() < 0.9
    assert (norm.running_var / var).mean() == pytest.approx(1, abs=0.08)
    same = method.fit(convolved, digits, Key(0)).model
    assert torch.equal(same[1].running_var, norm.running_var)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


def test_population_statistics_need_a_normalisation(digits: Development) -> None:
    with pytest.raises(InputError, match="no batch or instance normalisation"):
        DriftAware(statistics="population").fit(MLP, digits, Key(0))


@pytest.mark.parametrize("copies", [1, 3])
def test_censored_draws_have_a_largest_one(copies: int) -> None:
    """Right-censored: a share P(z > c) of all draws is c itself, and the others are as without it."""
    model = nn.Linear(200, 100)
    drawn = []
    for censor in (None, 0.5):
        chips = TrainingChips(model, 2, Key(0), copies, censor)
        with seeded(Key(1)):
            chips.draw([0.4, 0.8])
        drawn.append(chips.all.log() / torch.tensor([[0.4], [0.8]]))
    free, cut = drawn
    assert cut.max() == pytest.approx(0.5, abs=1e-5)
    if copies == 1:
        assert torch.allclose(cut, free.clamp(max=0.5), atol=1e-5)
        assert (cut > 0.4999).float().mean() == pytest.approx(
            0.3085, abs=0.01
        )  # P(z > 0.5), 4 standard errors
    else:  # every cell is cut before the mean over cells
        assert cut.mean() < free.mean()
        assert not torch.allclose(cut, free.clamp(max=0.5), atol=1e-2)


def test_censored_noise_is_a_setting_of_the_step(digits: Development) -> None:
    step = DriftAware(censor=1.0).step(MLP(inputs=64, classes=10), Key(0))
    assert isinstance(step, DriftedStep)
    assert step.censor == 1.0
    assert "censor" not in repr(DriftAware())
    with pytest.raises(InputError, match="past their cells"), silenced_warnings():
        DriftAware(0.5, chips=2, censor=1.0).step(KINDS["closure"][0](), Key(0))(
            KINDS["closure"][0](), *examples(), 1.0
        )
