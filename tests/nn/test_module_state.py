"""Models that keep something between forwards: the same results for any number of threads and any order of chips."""

from collections import defaultdict, deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.errors import InputError
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog.chips import set_chip
from crossbar_sim.nn.evaluate import check_repeats, outputs, run_over
from crossbar_sim.nn.module_state import left_on
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.rng import Key
from crossbar_sim.robustness import deploy


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with seeded(Key(0)):
            self.a, self.o = nn.Linear(8, 8), nn.Linear(8, 3)


class Skip(Base):
    """As U-Nets and feature hooks do."""

    def forward(self, x: Tensor) -> Tensor:
        self.skip = self.a(x).relu()
        return self.o(self.skip.sin() + self.skip)


class Mean(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.mean: Tensor

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        self.mean.mul_(0.9).add_(h.mean(0), alpha=0.1)
        return self.o((h - self.mean).relu())


class Once(Base):
    """Computes a weight in the first forward and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.w: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.w is None:
            self.w = (self.o.weight @ self.a.weight).detach().clone()
        return functional.linear(x, self.w)


class Lists(Base):
    """A list, a dictionary, a deque, a set and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.by_name: dict[str, Tensor] = {}
        self.last: deque[float] = deque([0.0], maxlen=2)
        self.sizes: set[int] = set()
        self.count = 1000

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        self.by_name["h"] = self.a(x)
        self.last.append(float(self.by_name["h"].mean()))
        self.sizes.add(len(x))
        self.count += 1
        return self.o(self.by_name["h"]) * (self.count - 1000) + sum(self.last)


class Observed(Base):
    """A fused observer moves its buffers without raising their version."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(-1.0))
        self.low: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.low.data.numpy()[...] -= 1.0
        return self.o(self.a(x)) + self.low


@pytest.fixture(autouse=True)
def several_threads() -> Any:
    before = threads.threads()
    yield
    threads.set_threads(before)


def inputs(n: int = 3000) -> Tensor:
    return torch.linspace(-2, 2, n * 8).view(n, 8).sin()


def by_hand(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(x[i : i + 100]) for i in range(0, len(x), 100)])


KINDS: dict[type[Base], set[str]] = {
    Skip: {"skip"},
    Mean: {"mean"},
    Once: {"w"},
    Lists: {"seen", "by_name", "last", "sizes", "count"},
    Observed: {"low"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_threads_do_not_share_what_a_forward_keeps(kind: type[Base]) -> None:
    x = inputs()
    expected = by_hand(kind().eval(), x)
    for count in (1, 4):
        threads.set_threads(count)
        model = kind().eval()
        for _ in range(3):  # and every evaluation begins from the same state
            torch.testing.assert_close(torch.cat(outputs(model, x, 100)), expected, rtol=1e-5, atol=1e-6)
        assert {*left_on(model)} == KINDS[kind]
        assert vars(model).keys() == vars(kind()).keys()
        fresh = kind().state_dict()
        assert all(torch.equal(value, fresh[name]) for name, value in model.state_dict().items())


class Namespace:
    """An object of the user's."""

    def __init__(self) -> None:
        self.tokens, self.inner = {"k": [torch.zeros(1)]}, (np.zeros(3), [0])


class Nested(Base):
    """Counts its calls deep inside of containers; what it counted acts on the outputs."""

    how = ""

    def __init__(self) -> None:
        super().__init__()
        self.box = {
            "list of dictionaries": lambda: [{"n": torch.zeros(1)}],
            "dictionary of tuples": lambda: {"layer": (torch.zeros(1), "name")},
            "object": Namespace,
            "object in a list": lambda: [Namespace()],
            "array in an object": Namespace,
            "default dictionary": lambda: defaultdict(list),
            "namespace": lambda: SimpleNamespace(n=0),
            "data class": lambda: Counter([0]),
            "module in a list": lambda: [Mean()],
        }[self.how]()

    def count(self) -> Tensor:
        box: Any = self.box
        if self.how == "list of dictionaries":
            box[0]["n"] = box[0]["n"] + 1
            return box[0]["n"]
        if self.how == "dictionary of tuples":
            return box["layer"][0].add_(1)
        if self.how == "array in an object":
            box.inner[0][0] += 1
            return torch.tensor(float(box.inner[0][0]))
        if "object" in self.how:
            held = box if self.how == "object" else box[0]
            held.tokens["k"].append(held.tokens["k"][-1] + 1)
            return held.tokens["k"][-1]
        if self.how == "default dictionary":
            box["calls"].append(1)
            return torch.tensor(float(len(box["calls"])))
        if self.how == "namespace":
            box.n += 1
            return torch.tensor(float(box.n))
        if self.how == "data class":
            box.values[0] += 1
            return torch.tensor(float(box.values[0]))
        box[0](torch.ones(4, 8))
        return box[0].mean[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.a(x)) + self.count()


@dataclass
class Counter:
    values: list[int]


@pytest.mark.parametrize(
    "how",
    [
        "list of dictionaries", "dictionary of tuples", "object", "object in a list", "array in an object",
        "default dictionary", "namespace", "data class", "module in a list",
    ],
)  # fmt: skip
def test_state_at_any_depth_is_put_back(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nested, "how", how)
    x = inputs(400)
    expected = by_hand(Nested().eval(), x)
    threads.set_threads(4)
    model = Nested().eval()
    for _ in range(2):
        torch.testing.assert_close(torch.cat(outputs(model, x, 100)), expected, rtol=1e-5, atol=1e-6)
    assert left_on(model) == ("box",)
    hardware = Hardware.preset("bayesft", sigma=0.5)
    found = deploy(model, x, None, hardware, chips=2, metric="output_error", sensitivity_chips=0, block=100)
    alone = deploy(Nested().eval(), x, None, hardware, chips=[1], metric="output_error", block=100)
    assert found.scores[1] == alone.scores[0]


def test_containers_are_put_back() -> None:
    model = Lists().eval()
    held = (model.seen, model.by_name, model.last, model.sizes)
    outputs(model, inputs(300), 100)
    run_over(model, inputs(300), 100)
    assert (model.seen, model.by_name, [*model.last], model.sizes, model.count) == (
        [],
        {},
        [0.0],
        set(),
        1000,
    )
    assert all(
        a is b for a, b in zip(held, (model.seen, model.by_name, model.last, model.sizes), strict=True)
    )
    assert model.last.maxlen == 2


def test_a_sparse_attribute_is_no_state() -> None:
    model = nn.Sequential(nn.Linear(8, 3)).eval()
    model.adjacency = torch.eye(3).to_sparse()
    assert outputs(model, inputs(300), 100)[0].shape == (100, 3)


def test_a_plain_model_keeps_nothing() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    outputs(model, inputs(300), 100)
    assert left_on(model) == ()
    analog = to_analog(model, Hardware.preset("bayesft", sigma=0.3))
    outputs(analog, inputs(300), 100)
    assert left_on(analog) == ()


class Hooked(Base):
    """Registers a hook in its first forward, and keeps a note that it has, as models of transformers do."""

    def forward(self, x: Tensor) -> Tensor:
        if not getattr(self, "hooked", False):
            self.a.register_forward_hook(lambda module, args, output: output + 1)
            self.hooked = True
        return self.o(self.a(x))


def test_hooks_of_a_forward_are_not_registered_twice() -> None:
    model, x = Hooked().eval(), torch.ones(4, 8)
    runs = [torch.cat(outputs(model, x, 2)) for _ in range(3)]
    expected = model.o(nn.functional.linear(x, model.a.weight, model.a.bias) + 1)
    assert all(torch.allclose(run, expected) for run in runs)
    assert not model.a._forward_hooks


@pytest.mark.parametrize("kind", [Mean, Once])
def test_a_chips_score_does_not_depend_on_the_chips_before(kind: type[Base]) -> None:
    x, hardware = inputs(200), Hardware.preset("bayesft", sigma=0.5)
    several = deploy(
        kind().eval(), x, None, hardware, chips=range(3), metric="output_error", sensitivity_chips=0
    )
    alone = deploy(kind().eval(), x, None, hardware, chips=[2], metric="output_error", sensitivity_chips=0)
    assert several.scores[2] == alone.scores[0]
    assert len({score.output_error for score in several.scores}) == 3
    assert any("leaves" in note and "on the model" in note for note in several.notes)
    analog = to_analog(kind().eval(), hardware)
    first = torch.cat(outputs(analog, x))
    set_chip(analog, 1)
    other = torch.cat(outputs(analog, x))
    assert not torch.equal(first, other)
    set_chip(analog, 0)
    assert torch.equal(torch.cat(outputs(analog, x)), first)


class Random(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.o(functional.dropout(self.a(x).relu(), 0.5))


def test_a_model_that_draws_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="the model draws random numbers"):
        deploy(Random().eval(), inputs(50), None, Hardware.preset("bayesft", sigma=0.1), chips=range(2))
    for kind in KINDS:
        check_repeats(kind().eval(), inputs(50))
