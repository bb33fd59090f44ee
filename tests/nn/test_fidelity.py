"""An analog model is the clean one on ideal hardware, or it is refused: what copies and exchanged classes can break."""

import functools
from typing import Any, ClassVar

import pytest
import torch
from helpers.analog_models import PLAIN, made, numbers
from torch import Tensor, nn

from crossbar_sim import Hardware, InputError
from crossbar_sim.data import Split, Splits
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog.chips import analog_state, set_chip
from crossbar_sim.nn.analog.fidelity import ensure_equivalent
from crossbar_sim.nn.analog.layers import InPlace
from crossbar_sim.nn.evaluate import outputs
from crossbar_sim.robustness import deploy, robustness
from crossbar_sim.robustness.calibration import Calibration

X = numbers(40, 6)
IDEAL = Hardware()


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.a(x).relu())


GLOBAL: dict[str, Any] = {}


class OnClass(Base):
    all: ClassVar[list[nn.Module]] = []

    def __init__(self) -> None:
        super().__init__()
        OnClass.all[:] = [self.a]

    def forward(self, x: Tensor) -> Tensor:
        return self.o(OnClass.all[0](x).relu())


class InGlobal(Base):
    def __init__(self) -> None:
        super().__init__()
        GLOBAL["a"] = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.o(GLOBAL["a"](x).relu())


class GlobalWeight(Base):
    """Not even the layer runs: its weight alone is taken."""

    def __init__(self) -> None:
        super().__init__()
        GLOBAL["w"] = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.o(nn.functional.linear(x, GLOBAL["w"].weight, GLOBAL["w"].bias).relu())


class GlobalMethod(Base):
    def __init__(self) -> None:
        super().__init__()
        GLOBAL["method"] = functools.partial(self.first, factor=1.0)

    def first(self, x: Tensor, factor: float) -> Tensor:
        return self.a(x) * factor

    def forward(self, x: Tensor) -> Tensor:
        return self.o(GLOBAL["method"](x).relu())


class GlobalHook(Base):
    def __init__(self) -> None:
        super().__init__()
        GLOBAL["model"] = self
        self.a.register_forward_hook(lambda module, args, y: GLOBAL["model"].o(y.relu()))

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)


class Neuron(nn.Module):
    """As snnTorch's: what resets them goes through a list of the class."""

    all: ClassVar[list["Neuron"]] = []

    def __init__(self) -> None:
        super().__init__()
        self.mem = torch.zeros(1)
        Neuron.all.append(self)

    def forward(self, i: Tensor) -> Tensor:
        self.mem = 0.9 * self.mem + i
        return (self.mem > 1).float()


class Spiking(Base):
    def __init__(self) -> None:
        super().__init__()
        self.neuron = Neuron()

    def forward(self, x: Tensor) -> Tensor:
        for neuron in Neuron.all:
            neuron.mem = torch.zeros(1)
        return sum(self.o(self.neuron(self.a(3 * x))) for _ in range(4)) / 4


class ByType(Base):
    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate((self.a, self.o)):
            x = layer(x)
            if type(layer) == nn.Linear and i == 0:  # noqa: E721
                x = x.relu()
        return x


class ByName(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.o(x.relu() if type(self.a).__name__ == "Linear" else x)


class ByClassAttribute(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.o(x.relu() if self.a.__class__ is nn.Linear else x)


class ByTable(Base):
    table: ClassVar[dict[type, Any]] = {nn.Linear: lambda layer, x: layer(x)}

    def forward(self, x: Tensor) -> Tensor:
        return self.table[type(self.o)](self.o, self.table[type(self.a)](self.a, x).relu())


class Loops(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super(type(self), self).forward(x)


class SuperOfType(Base):
    def __init__(self) -> None:
        super().__init__()
        layer = Loops(6, 8)
        layer.load_state_dict(self.a.state_dict())
        self.a = layer


class Both(Base):
    """A registry and a comparison of classes."""

    def __init__(self) -> None:
        super().__init__()
        GLOBAL["both"] = self.a

    def forward(self, x: Tensor) -> Tensor:
        x = GLOBAL["both"](x)
        return self.o(x.relu() if type(GLOBAL["both"]) is nn.Linear else x)


KINDS = [
    OnClass, InGlobal, GlobalWeight, GlobalMethod, GlobalHook, ByType, ByName, ByClassAttribute, ByTable, SuperOfType,
    Both,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_models_that_no_plain_copy_is_are_analog_all_the_same(kind: type[Base]) -> None:
    model, plain = made(kind), made(Base)
    with torch.no_grad():
        assert torch.equal(model(X), plain(X))
    classes = [type(module) for module in model.modules()]
    expected = to_analog(plain, PLAIN)
    analog = ensure_equivalent(to_analog(model, PLAIN), model, X)
    for chip in (0, 3):
        set_chip(expected, chip)
        set_chip(analog, chip)
        assert torch.equal(torch.cat(outputs(analog, X, 7)), torch.cat(outputs(expected, X, 7)))
    assert [type(module) for module in model.modules()] == classes
    with torch.no_grad():
        assert torch.equal(model(X), plain(X))
    assert all("crossbar" not in name for module in model.modules() for name in vars(module))


@pytest.mark.parametrize("kind", [OnClass, ByType, Both])
def test_deploy_and_sweep_agree_about_them(kind: type[Base]) -> None:
    model, plain = made(kind), made(Base)
    found, wanted = (deploy(m, X, None, PLAIN, chips=2, sensitivity_chips=1, block=9) for m in (model, plain))
    assert found.scores == wanted.scores
    assert [layer.sensitivity for layer in found.layers] == [layer.sensitivity for layer in wanted.layers]
    curve = robustness({"m": model}, (X, None), PLAIN, [0.5], chips=2).curve("m")
    assert list(curve[0].values) == [score.agreement for score in wanted.scores]


@pytest.mark.parametrize("kind", [OnClass, ByType])
def test_they_are_calibrated_as_any(kind: type[Base]) -> None:
    x, y = numbers(60, 6), torch.arange(60) % 3
    splits = Splits("x", Split(x, y), Split(x[:6], y[:6]), Split(x, y), 3)
    for way in ("readout", "affine"):
        how = Calibration(way, 30), splits.development
        found, wanted = (
            deploy(made(k), x, y, PLAIN, chips=1, sensitivity_chips=0, calibration=how) for k in (kind, Base)
        )
        assert found.scores == wanted.scores
        assert found.scores != found.uncalibrated


def test_neurons_that_a_class_resets() -> None:
    Neuron.all.clear()
    model = made(Spiking)
    found = deploy(model, X, None, IDEAL, chips=1, sensitivity_chips=0, metric="output_error", block=7)
    assert found.scores[0].output_error < 1e-4


def test_ordinary_models_are_plain_copies() -> None:
    model = made(Base)
    analog = to_analog(model, PLAIN)
    assert ensure_equivalent(analog, model, X) is analog
    assert not isinstance(analog, InPlace)
    assert type(analog.a) is not nn.Linear
    assert analog_state(analog).hardware is PLAIN


def test_an_unused_layer_is_nothing_wrong() -> None:
    class Unused(Base):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(3, 3)

    model = made(Unused)
    analog = to_analog(model, PLAIN)
    assert ensure_equivalent(analog, model, X) is analog


class OfTheBatch(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.norm(self.a(x)).relu())


class StaysInTraining(OfTheBatch):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def train(self, mode: bool = True) -> "StaysInTraining":
        super().train(mode)
        self.norm.train()
        return self


class OwnStatistics(Base):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.o((h - h.mean(0)).relu())


@pytest.mark.parametrize("kind", [OfTheBatch, StaysInTraining])
@pytest.mark.parametrize("count", [2, 3, 5, 40])
def test_statistics_of_the_batch_are_refused(kind: type[Base], count: int) -> None:
    with pytest.raises(InputError, match="norm: batch normalisation by the statistics of the batch"):
        deploy(made(kind), X[:count], None, PLAIN, chips=1, sensitivity_chips=0)
    with pytest.raises(InputError, match="norm: batch normalisation by the statistics of the batch"):
        robustness({"m": made(kind)}, (X[:count], None), PLAIN, [0.5], chips=1)


def test_other_dependence_on_the_batch_is_warned_of() -> None:
    found = deploy(made(OwnStatistics), X, None, PLAIN, chips=1, sensitivity_chips=0)
    assert any("depend on the others of its batch" in warning for warning in found.warnings)
    found = deploy(made(Base), X, None, PLAIN, chips=1, sensitivity_chips=0)
    assert not any("others of its batch" in warning for warning in found.warnings)


class TimeFirst(nn.Module):
    """A tagger of sequences (time, batch, features): its outputs depend on the rows before them."""

    def __init__(self) -> None:
        super().__init__()
        self.l, self.o = nn.LSTM(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.l(x)[0])


@pytest.mark.parametrize("count", [4, 5, 9, 20])
def test_a_model_with_time_first_is_warned_of(count: int) -> None:
    x, y = (
        torch.sin(torch.arange(count * 30.0)).reshape(count, 5, 6),
        torch.arange(count * 5).reshape(count, 5) % 3,
    )
    found = deploy(made(TimeFirst), x, y, PLAIN, chips=1, sensitivity_chips=0)
    assert any("depend on the others of its batch" in warning for warning in found.warnings)


class OfLstm(nn.Module):
    """Recurrent layers cannot keep their class."""

    def __init__(self) -> None:
        super().__init__()
        self.l, self.o = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.l(x[:, None])[0][:, 0]
        return self.o(h.relu() if type(self.l) is nn.LSTM else h)


def test_what_remains_is_refused_with_the_layer_and_the_cause() -> None:
    with pytest.raises(InputError, match=r"OfLstm is not the same model .* first in .*type\(layer\)"):
        deploy(made(OfLstm), X, None, PLAIN, chips=1, sensitivity_chips=0)
    with pytest.raises(InputError, match="OfLstm is not the same model"):
        robustness({"m": made(OfLstm)}, (X, None), PLAIN, [0.5], chips=1)


def test_state_kept_outside_of_the_modules_is_refused() -> None:
    class Counts(Base):
        def forward(self, x: Tensor) -> Tensor:
            GLOBAL["count"] = GLOBAL.get("count", 0) + 1
            return super().forward(x) * GLOBAL["count"]

    with pytest.raises(InputError, match="keeps state outside of its modules"):
        deploy(made(Counts), X, None, PLAIN, chips=1, sensitivity_chips=0)


def test_a_model_whose_outputs_are_all_zero_is_refused_for_an_error_relative_to_them() -> None:
    model = made(Base)
    with torch.no_grad():
        for parameter in model.o.parameters():
            parameter.zero_()
    for sigma in (0.0, 0.5):
        hardware = Hardware.preset("bayesft", sigma=sigma)
        with pytest.raises(InputError, match=r"outputs are all 0 .* trained model") as caught:
            deploy(model, X, None, hardware, chips=1, sensitivity_chips=0, metric="output_error")
        assert "lower sigma" not in str(caught.value)
        with pytest.raises(InputError, match="outputs are all 0"):
            robustness({"m": model}, (X, None), hardware, [sigma], chips=1, metric="output_error")
    found = deploy(model, X, None, hardware, chips=1, sensitivity_chips=0)
    assert any("all zero" in warning for warning in found.warnings)


def test_outputs_that_are_no_numbers_are_not_compared() -> None:
    class Padded(Base):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).masked_fill(x[:, :3] < -0.9, float("-inf"))

    model = made(Padded)
    analog = to_analog(model, PLAIN)
    with torch.no_grad():
        assert not model(X[:8]).isfinite().all()
    assert ensure_equivalent(analog, model, X) is analog
