"""Every option of a training acts, alone: no setting silently does nothing."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from crossbar_sim.baselines import Awp, DriftAware, Dropout, Erm, Ftna
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.data import Development, Split, load_data
from crossbar_sim.errors import InputError
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.nn.training.augment import Augment
from crossbar_sim.nn.training.loop import MOMENTUM, FitReport, accuracy, fit
from crossbar_sim.nn.training.losses import PLAIN
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.rng import Key


class Convolutional(nn.Module):
    def __init__(self, flat: str) -> None:
        super().__init__()
        self.conv, self.fc, self.flat = nn.Conv2d(2, 6, 3), nn.Linear(6 * 36, 10), flat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(getattr(self.conv(x).relu(), self.flat)(len(x), -1))


@pytest.fixture(scope="module")
def digits() -> Development:
    return load_data("digits").development


def mlp() -> nn.Sequential:
    with seeded(Key(0).fold("initialisation")):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def run(digits: Development, **options: Any) -> tuple[torch.Tensor, FitReport]:
    model = mlp()
    training = Training(**{"epochs": 2, "batch": 200, "lr": 5e-3, **options})
    report = fit(model, digits.train, digits.validation, key=Key(0), training=training)
    return weights(model), report


@pytest.mark.parametrize(
    "option",
    [
        {"epochs": 3},
        {"batch": 100},
        {"lr": 1e-3},
        {"optimiser": "sgd"},
        {"schedule": "constant"},
        {"weight_decay": 0.1},
        {"clip": 1e-4},
        {"precision": "bfloat16"},
        {"augment": Augment(crop=1)},
        {"augment": Augment(flip=True)},
        {"optimiser": "sgd", "weight_decay": 0.1},
        {"optimiser": "sgd", "nesterov": True},
        {"optimiser": "sgd", "momentum": 0.5},
        {"optimiser": "muon"},
        {"optimiser": "muon", "weight_decay": 0.1},
        {"optimiser": "muon", "momentum": 0.5},
        {"optimiser": "muon", "vector_lr": 0.1},
        {"schedule": "triangular"},
        {"schedule": "linear"},
        {"label_smoothing": 0.1},
        {"augment": Augment(flip="alternating")},
    ],
)
def test_every_option_changes_the_weights(digits: Development, option: dict[str, Any]) -> None:
    other = run(digits, **option)[0]
    rest = {k: v for k, v in option.items() if k == "optimiser" and len(option) > 1}
    assert not torch.equal(run(digits, **rest)[0], other)


def test_what_is_the_default_changes_nothing(digits: Development) -> None:
    """The negative control of the test above, with the device and a patience that is never lost."""
    plain = run(digits)[0]
    assert torch.equal(plain, run(digits, optimiser="adam", weight_decay=0.0, clip=1e9, device="cpu")[0])
    model = mlp()
    fit(model, digits.train, epochs=2, batch=200, lr=5e-3, key=Key(0))
    assert torch.equal(plain, weights(model))


def test_sgd_steps_as_its_definition_says() -> None:
    """v <- 0.9 v + (g + decay w); w <- w - lr v, with a gradient of 1."""
    model = nn.Linear(1, 1, bias=False)
    w, v = model.weight.item(), 0.0
    training = Training(2, 2, 0.1, "sgd", "constant", weight_decay=0.01)
    examples = Split(torch.ones(4, 1), torch.zeros(4).long())
    fit(model, examples, key=Key(0), training=training, loss_step=lambda m, x, y: m.weight.sum())
    for _ in range(4):
        v = MOMENTUM * v + 1 + 0.01 * w
        w -= 0.1 * v
    assert model.weight.item() == pytest.approx(w, rel=1e-5)


def test_nesterov_steps_as_its_definition_says() -> None:
    """v <- m v + g; w <- w - lr (g + m v), with a gradient of 1, and a rate that falls in a straight line."""
    model = nn.Linear(1, 1, bias=False)
    w, v = model.weight.item(), 0.0
    training = Training(2, 2, 0.1, "sgd", "linear", momentum=0.8, nesterov=True)
    examples = Split(torch.ones(4, 1), torch.zeros(4).long())
    fit(model, examples, key=Key(0), training=training, loss_step=lambda m, x, y: m.weight.sum())
    for step in range(4):
        v = 0.8 * v + 1
        w -= 0.1 * (1 - step / 4) * (1 + 0.8 * v)
    assert model.weight.item() == pytest.approx(w, rel=1e-5)


@pytest.mark.parametrize("layout", ["plain", "channels last", "turned"])
def test_muon_moves_filters_as_matrices_and_vectors_by_nesterov_sgd(layout: str) -> None:
    """A step along a gradient U S V' is close to one along U V', whatever S; torch's iteration is off by up to 0.3."""
    model = nn.Conv2d(3, 2, 2)
    if layout == "turned":
        model.weight.data = model.weight.data.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    w, bias = model.weight.detach().clone(), model.bias.detach().clone()  # type: ignore[union-attr]
    u, _, vt = torch.linalg.svd(torch.arange(24.0).reshape(2, 12).sin(), full_matrices=False)
    slopes = (u * torch.tensor([5.0, 0.2]) @ vt).reshape(2, 3, 2, 2)
    last = layout == "channels last"
    training = Training(1, 2, 0.5, "muon", "constant", vector_lr=0.1, weight_decay=0.2, channels_last=last)
    examples = Split(torch.ones(2, 3, 2, 2), torch.zeros(2).long())

    def loss(m: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (m.weight * slopes).sum() + m.bias.sum()  # type: ignore[operator, union-attr]

    fit(model, examples, key=Key(0), training=training, loss_step=loss)
    moved = ((w * (1 - 0.5 * 0.2) - model.weight.detach()) / 0.5).flatten(1)
    assert torch.allclose(u.T @ moved @ vt.T, torch.eye(2), atol=0.35)
    assert torch.allclose(moved, u @ (u.T @ moved @ vt.T) @ vt, atol=0.02)  # nothing outside U and V
    assert torch.allclose(bias - model.bias, torch.full((2,), 0.1 * 1.9))
    assert model.weight.stride() == w.stride()


def test_label_smoothing_is_a_mean_over_all_classes() -> None:
    """(1 - e) of the loss of the label, e of the mean loss of all classes, in every method's own loss."""
    z, y, e = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.3, 1.0]]), torch.tensor([0, 2]), 0.3
    logs = z.log_softmax(1)
    expected = -((1 - e) * logs[range(2), y] + e * logs.mean(1)).mean()
    model = nn.Linear(3, 3, bias=False)
    model.weight.data = torch.eye(3)
    task = PLAIN.smoothed(model, e)
    losses = [task(model, z, y)]
    still = DriftAware(sigma=1e-6, chips=1, ramp=0, temperature=False)
    losses += [still.step(model, Key(0), task)(model, z, y, 0.5)]
    losses += [still.step(nn.Sequential(model), Key(0), task)(nn.Sequential(model), z, y, 0.5)]
    losses += [replace(still, hardware=Hardware.preset("ideal")).step(model, Key(0), task)(model, z, y, 0.5)]
    losses += [Awp(gamma=1e-9).step(model, z, y, loss=task)]
    assert [loss.item() for loss in losses] == [pytest.approx(float(expected), rel=1e-4)] * 5


def test_label_smoothing_changes_what_every_method_learns(digits: Development) -> None:
    for method in (Erm, Dropout, Awp, Ftna, DriftAware):
        found = [
            method(training=Training(1, 500, 1e-2, label_smoothing=e)).fit(mlp, digits, Key(0)).model
            for e in (0.0, 0.3)
        ]
        assert not torch.equal(*map(weights, found)), method


def test_weight_decay_of_adam_is_decoupled() -> None:
    """Without a gradient, w shrinks by 1 - lr decay in each step (Loshchilov and Hutter, arXiv:1711.05101)."""
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.item()
    training = Training(1, 2, 0.1, schedule="constant", weight_decay=0.5)
    examples = Split(torch.ones(4, 1), torch.zeros(4).long())
    fit(model, examples, key=Key(0), training=training, loss_step=lambda m, x, y: 0 * m.weight.sum())
    assert model.weight.item() == pytest.approx(before * 0.95**2, rel=1e-5)


def test_clipping_holds_each_component() -> None:
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    training = Training(1, 1, 1.0, "sgd", "constant", clip=0.5)
    examples = Split(torch.ones(1, 2), torch.zeros(1).long())
    slopes = torch.tensor([[3.0, -0.25]])
    fit(model, examples, key=Key(0), training=training, loss_step=lambda m, x, y: (m.weight * slopes).sum())
    assert (before - model.weight).tolist() == [pytest.approx([0.5, -0.25])]


def test_patience_stops_and_keeps_the_best(digits: Development) -> None:
    """The loss is turned upside down after two epochs: from then on it only gets worse."""
    training = Training(9, 200, 5e-3, schedule="constant", patience=2)
    epochs: list[int] = []

    def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        sign = 1 if len(epochs) < 2 else -0.2
        return sign * nn.functional.cross_entropy(model(x), y).clamp(max=20)

    model = mlp()
    report = fit(
        model, digits.train, digits.validation, key=Key(0), training=training, loss_step=step,
        progress=lambda epoch: epochs.append(epoch.number),
    )  # fmt: skip
    scores = [epoch.validation_accuracy for epoch in report.history]
    assert report.kept == 2
    assert report.epochs == 4
    assert report.validation_accuracy == scores[1] == max(scores)  # type: ignore[type-var]
    assert digits.validation.y is not None
    assert accuracy(model, digits.validation.x, digits.validation.y) == scores[1]


def test_without_patience_the_last_weights_stay(digits: Development) -> None:
    assert run(digits)[1].kept is None


def test_a_step_takes_the_place_of_a_loss(digits: Development) -> None:
    shares: list[float] = []

    def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor, share: float) -> torch.Tensor:
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())
        shares.append(share)
        loss = nn.functional.cross_entropy(model(x), y)
        for p, gradient in zip(
            model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            p.grad = gradient  # its own tensor in place of the loop's
        return loss.detach()

    model = mlp()
    training = Training(2, 200, 5e-3)
    fit(model, digits.train, key=Key(0), training=training, step=step)
    assert shares == [i / 12 for i in range(12)]
    assert torch.equal(weights(model), run(digits)[0])


def test_parameters_keep_their_memory_and_lose_their_gradients(digits: Development) -> None:
    """Whoever holds a parameter's memory sees it trained."""
    model = mlp()
    held = [p.data for p in model.parameters()]
    where = [p.data_ptr() for p in model.parameters()]
    fit(model, digits.train, epochs=1, key=Key(0))
    assert [p.data_ptr() for p in model.parameters()] == where
    assert all(torch.equal(a, p) for a, p in zip(held, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_they_do_so_when_a_step_fails(digits: Development) -> None:
    model = mlp()
    where = [p.data_ptr() for p in model.parameters()]

    def broken(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        raise KeyError("of the user's own")

    with pytest.raises(KeyError):
        fit(model, digits.train, epochs=1, key=Key(0), loss_step=broken)
    assert [p.data_ptr() for p in model.parameters()] == where


@pytest.mark.parametrize("channels_last", [False, True])
def test_parameters_that_share_memory_keep_sharing_it(channels_last: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = nn.Parameter(model[0].weight.data)
    x = torch.linspace(0, 1, 16).reshape(4, 4)
    training = Training(epochs=3, channels_last=channels_last)
    fit(model, Split(x, torch.arange(4)), training=training, key=Key(0))
    assert torch.equal(model[0].weight, model[1].weight)


def test_tied_and_double_precision_parameters_train() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).double()
    model[1].weight = model[0].weight
    before = model[0].weight.detach().clone()
    x = torch.linspace(0, 1, 16).reshape(4, 4)

    def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(x.double()), y)

    fit(model, Split(x, torch.arange(4)), epochs=3, key=Key(0), loss_step=step)
    assert model[0].weight is model[1].weight
    assert not torch.equal(model[0].weight, before)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch": True}, "batch=True"),
        ({"lr": math.nan}, "lr=nan"),
        ({"lr": "fast"}, "lr='fast'"),
        ({"optimiser": "lion"}, "adam, sgd"),
        ({"schedule": "step"}, "one-cycle, triangular, linear, constant"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"patience": 0}, "patience=0"),
        ({"precision": "float16"}, "float32, bfloat16"),
        ({"channels_last": 1}, "channels_last=1: True or False is needed"),
        ({"augment": "flip"}, "Augment"),
        ({"momentum": 1.0, "optimiser": "sgd"}, "momentum=1.0"),
        ({"momentum": 0.5}, "settings of sgd and muon"),
        ({"nesterov": True}, "settings of sgd and muon"),
        ({"nesterov": True, "momentum": 0.0, "optimiser": "sgd"}, "no momentum to look ahead with"),
        ({"vector_lr": 0.1}, "it is a setting of muon"),
        ({"vector_lr": -0.1, "optimiser": "muon"}, "vector_lr=-0.1"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"device": "tpu!"}, "device='tpu!'"),
        ({"device": "cuda:77"}, "GPU"),
    ],
)
def test_impossible_settings_are_refused_in_one_sentence(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        Training(**options)
    assert "\n" not in str(caught.value)


def test_contradictions_are_refused(digits: Development) -> None:
    some: dict[str, Any] = {"key": Key(0)}
    with pytest.raises(InputError, match="lr beside training"):
        fit(mlp(), digits.train, training=Training(), lr=1.0, **some)
    with pytest.raises(InputError, match="epochs is missing"):
        fit(mlp(), digits.train, **some)
    with pytest.raises(InputError, match="needs validation examples"):
        fit(mlp(), digits.train, training=Training(patience=1), **some)
    with pytest.raises(InputError, match="one of them"):
        fit(
            mlp(),
            digits.train,
            epochs=1,
            loss_step=lambda m, x, y: m(x).sum(),
            step=lambda m, x, y, s: x,
            **some,
        )
    smooth = Training(label_smoothing=0.1)
    with pytest.raises(InputError, match="smooth the labels there"):
        fit(mlp(), digits.train, training=smooth, loss_step=lambda m, x, y: m(x).sum(), **some)
    real = Split(digits.train.x, digits.train.x.flatten(1)[:, :10].double())
    with pytest.raises(InputError, match="for the cross-entropy of classes, and not for the loss mse"):
        fit(mlp(), real, training=smooth, **some)
    scale = nn.Sequential(nn.Flatten(), nn.Linear(64, 10).requires_grad_(False), nn.LayerNorm(10))
    with pytest.raises(InputError, match="Muon is for matrices"):
        fit(scale, digits.train, training=Training(optimiser="muon"), **some)
    flat = Split(digits.train.x.flatten(1), digits.train.y)
    with pytest.raises(InputError, match="cannot be shifted"):
        fit(mlp(), flat, training=Training(augment=Augment(crop=1)), **some)


def convolutional(digits: Development, *, flat: str = "reshape", memory: str = "plain", **options: Any):
    """A small network and how it was trained; only with plain memory do its parameters get a flat buffer."""
    with seeded(Key(0).fold("initialisation")):
        model = Convolutional(flat)
    if memory == "turned":
        model.fc.weight.data = model.fc.weight.data.t().contiguous().t()
    if memory == "shared":
        model.again = nn.Parameter(model.conv.weight.data)
    training = Training(3, 200, 1e-2, **options)
    strides = []

    def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor, share: float) -> torch.Tensor:
        strides.append((x.stride(), model.conv.weight.stride()))
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    train, held = (Split(s.x.repeat(1, 2, 1, 1), s.y) for s in (digits.train, digits.validation))
    report = fit(model, train, held, key=Key(0), training=training, step=step)
    return model, report, strides


@pytest.mark.parametrize("memory", ["plain", "turned", "shared"])
def test_channels_last_is_the_same_training_in_another_layout(digits: Development, memory: str) -> None:
    plain, before, first = convolutional(digits, memory=memory)
    last, after, then = convolutional(digits, memory=memory, channels_last=True)
    assert set(first) == {((128, 64, 8, 1), (18, 9, 3, 1))}
    moved = (18, 9, 3, 1) if memory == "shared" else (18, 1, 6, 2)
    assert set(then) == {((128, 1, 16, 2), moved)}
    for a, b in zip(plain.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        assert b.stride() == a.stride()
    if memory == "shared":
        assert torch.equal(last.again, last.conv.weight)
    assert after.validation_accuracy == pytest.approx(before.validation_accuracy, abs=0.01)


def test_a_training_is_known_by_the_text_it_had_before_channels_last() -> None:
    assert repr(Training(3, clip=0.1)) == (
        "Training(epochs=3, batch=128, lr=0.001, optimiser='adam', schedule='one-cycle', weight_decay=0.0, clip=0.1, "
        "patience=None, precision='float32', augment=None, device=None)"
    )
    assert "precision='float32', channels_last=True, augment=None" in repr(Training(channels_last=True))


def test_torch_without_muon_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(InputError, match=r"has no torch\.optim\.Muon; install torch 2.9 or later"):
        Training(optimiser="muon")


def test_a_model_that_views_is_told_of_channels_last(digits: Development) -> None:
    convolutional(digits, flat="view")
    with pytest.raises(InputError, match="write flatten or reshape there, or train without channels_last"):
        convolutional(digits, flat="view", channels_last=True)
