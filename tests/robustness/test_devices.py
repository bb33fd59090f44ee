"""The same chips by operations on tensors, in the CPU's memory, as by the Numba kernels; and on a GPU without values.

`torch:cpu` runs the code of GPUs, so that the numbers can be compared. The GPU without values shows that no operation
mixes tensors of two devices, and that no weight goes to the GPU again for each chip.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.fake_gpu import fake_gpu
from torch import nn

from crossbar_sim import Hardware, InputError, deploy, tradeoff
from crossbar_sim.data import Development, Split
from crossbar_sim.nn import evaluate
from crossbar_sim.nn.device import Device, block_size
from crossbar_sim.robustness import benchmark
from crossbar_sim.robustness.benchmark import robustness
from crossbar_sim.robustness.calibration import Calibration, Calibrator, low_rank
from crossbar_sim.robustness.score import Reference


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b, self.c = nn.Conv2d(4, 4, 3, groups=2), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.norm(self.a(x)))
        y: torch.Tensor = self.c(self.b(h).mean((2, 3)))
        return y


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(11, 8), nn.LayerNorm(8)
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.table(x)
        y: torch.Tensor = self.out(self.norm(h + self.attention(h, h, h, need_weights=False)[0]).mean(1))
        return y


class Frames(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells, self.out = kind(6, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.out(self.cells(x)[0][:, -1])
        return y


def mlp(hidden: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(20, hidden), nn.ReLU(), nn.Linear(hidden, 4))


def rows(n: int = 600) -> torch.Tensor:
    return torch.rand(n, 20)


def images(n: int = 600) -> torch.Tensor:
    return torch.rand(n, 3, 8, 8)


def tokens(n: int = 600) -> torch.Tensor:
    return torch.arange(n * 5).reshape(n, 5) % 11


def frames(n: int = 600) -> torch.Tensor:
    return torch.rand(n, 5, 6)


PLAIN = Hardware.preset("bayesft", sigma=0.5)
CELLS = Hardware.preset(
    "bayesft",
    sigma=0.5,
    levels=16,
    programming_sigma=0.1,
    stuck_off=0.05,
    stuck_on=0.02,
)
FOLDED = Hardware.preset("bayesft", sigma=0.5, normalisation="folded", bias="row")

CASES: dict[str, tuple[Callable[[], nn.Module], Callable[..., torch.Tensor], Hardware]] = {
    "layers": (mlp, rows, PLAIN),
    "cells": (mlp, rows, CELLS),
    "published design": (mlp, rows, Hardware.preset("reram_wan2022")),
    "images": (Images, images, PLAIN),
    "folded": (Images, images, FOLDED),
    "attention": (Tokens, tokens, PLAIN),
    "recurrent": (functools.partial(Frames, nn.LSTM), frames, PLAIN),
}

KINDS = ("both", "statistics", "dora:rank=2")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.random.default_generator.manual_seed(7)


@pytest.mark.parametrize("name", CASES)
def test_tensors_give_the_chips_of_the_kernels(name: str) -> None:
    make, data, hardware = CASES[name]
    model, x = make().eval(), data()
    y = torch.arange(len(x)) % 4
    found = {
        device: deploy(model, x, y, hardware=hardware, chips=2, sensitivity_chips=0, device=device)
        for device in ("cpu", "torch:cpu")
    }
    for a, b in zip(found["cpu"].scores, found["torch:cpu"].scores, strict=True):
        assert a.accuracy is not None
        assert b.accuracy is not None
        assert abs(a.accuracy - b.accuracy) * len(x) <= 1.001
        assert b.output_error == pytest.approx(a.output_error, rel=1e-4)
    assert "computed on torch:cpu" in found["torch:cpu"].notes
    assert not any("computed" in note for note in found["cpu"].notes)


def without_values(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor, Hardware]:
    make, data, hardware = CASES[name]
    x = data()
    return make().eval(), x, torch.zeros(len(x), dtype=torch.int64), hardware


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_no_operation_mixes_devices(name: str) -> None:
    with fake_gpu():
        model, x, y, hardware = without_values(name)
        alone = 1 if name == "images" else 0
        found = deploy(model, x, y, hardware=hardware, chips=1, sensitivity_chips=alone, device="cuda")
        assert len(found.scores) == 1
        assert all(p.device.type == "cpu" for p in model.parameters()), "it came back"


@pytest.mark.filterwarnings("ignore")
def test_a_mix_would_be_seen() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(20, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layer(x) + torch.ones(4)
            return y

    with fake_gpu(), pytest.raises(InputError, match="same device"):
        deploy(Mixed(), rows(), hardware=PLAIN, chips=1, device="cuda")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_corrections_without_a_mix(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_rank, "EPOCHS", 0)  # the gradient of a tensor on a GPU needs the GPU
    monkeypatch.setattr(Calibrator, "overlap", lambda *_: iter(()))  # compares values
    with fake_gpu():
        model, x, y, hardware = without_values("images")
        data = Development(Split(x[:64], y[:64]), Split(x[64:128], y[64:128]))
        found = deploy(
            model, x, y, hardware=hardware, chips=1, sensitivity_chips=0, device="cuda",
            calibrate=Calibration(kind, 64), calibration_data=data,
        )  # fmt: skip
        assert found.scores[0].accuracy is not None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("metric", ["output_error", "cross-entropy", "r2"])
def test_metrics_without_a_mix(metric: str) -> None:
    with fake_gpu():
        model, x, y, hardware = without_values("layers")
        targets = torch.rand(len(x), 4) if metric == "r2" else y
        swept = robustness({"m": model}, (x, targets), hardware, [0.5], chips=1, metric=metric, device="cuda")
        (task,) = swept.tasks.values()
        assert "computed on cuda: none" in task.about["notes"]


@pytest.mark.filterwarnings("ignore")
def test_tf32_is_another_task_and_is_said() -> None:
    with fake_gpu():
        model, x, y, hardware = without_values("layers")
        tasks = []
        for device in ("cuda", "cuda+tf32"):
            swept = robustness({"m": model}, (x, y), hardware, [0.5], chips=1, device=device)
            tasks += swept.tasks.values()
        assert tasks[1].identity == {**tasks[0].identity, "products": "tf32"}
        notes = tasks[1].about["notes"]
        assert "computed on cuda: none, products in TF32" in notes
        assert any("TF32, which changes of the clean model" in note and "decisions" in note for note in notes)


@pytest.mark.filterwarnings("ignore")
def test_weights_and_data_go_to_the_gpu_once() -> None:
    with fake_gpu() as bus:
        model, x = mlp(hidden=256), rows(2000)
        y = torch.zeros(len(x), dtype=torch.int64)
        later: list[tuple[int, int]] = []

        def progress(done: int, total: int, what: str) -> None:
            later.append((sum(bus.to_gpu), sum(bus.to_cpu)))
            bus.clear()

        robustness({"m": model}, (x, y), PLAIN, [0.3, 0.5], chips=3, device="cuda", progress=progress)
        assert max(later[0]) > x.numel() * 4, "the data went there"
        smallest = 20 * 256 * 4
        assert all(max(each) < smallest for each in later[2:]), later


def test_a_trade_off_and_its_ranges() -> None:
    x = rows(200)
    y = torch.arange(200) % 4
    model = mlp().eval()
    found = [
        tradeoff(model, (x, y), PLAIN, {"levels": [4, 16]}, chips=2, metric="output_error", device=device)
        for device in ("cpu", "torch:cpu")
    ]
    scores = [[each.point.values for each in one.measured if each.point] for one in found]
    assert np.allclose(scores[0], scores[1], rtol=1e-4)


# Memory


@pytest.mark.parametrize(
    ("block", "each", "free", "size"),
    [
        (500, 1e3, 8e9, 8000),  # at full speed
        (500, 1e6, 4e9, 3000),  # three quarters of what is free
        (500, 1e9, 4e9, 500),  # what has run once
        (500, 1e3, None, 500),
        (500, 0.0, 8e9, 500),
        (10_000, 1.0, 8e9, 10_000),
    ],
)
def test_blocks_by_free_memory(block: int, each: float, free: float | None, size: int) -> None:
    assert block_size(block, each, None if free is None else int(free)) == size


def test_data_that_do_not_fit_stay_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference.of(mlp().eval(), rows(100), None)
    size = reference.x.numel() * 4 + reference.clean.numel() * 4  # type: ignore[union-attr]
    there = Device(torch.device("meta"), True)
    for free, moved in ((2 * size - 1, False), (2 * size, True)):
        monkeypatch.setattr("crossbar_sim.nn.device.free_memory", lambda device, free=free: free)
        assert (reference.on(there).where.type == "meta") == moved


SEEN: list[int] = []


class Full(nn.Module):
    """A model whose activations take more memory than there is, beyond so many examples."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.layer, self.most = nn.Linear(20, 4), most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        SEEN.append(len(x))
        y: torch.Tensor = self.layer(x)
        return y


def test_a_block_that_does_not_fit_is_halved() -> None:
    x, model = rows(1200), Full(130).eval()
    wanted = model.layer(x)
    with pytest.warns(UserWarning, match=r"memory is full with \d+ examples at a time") as said:
        found = torch.cat(evaluate.outputs(model, x))
    assert torch.allclose(found, wanted, atol=1e-6)
    assert len(said) == 2  # 500, 250
    SEEN.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate.outputs(model, x)  # it is known now
    assert max(SEEN) == 125
    none: Any = Full(0).eval()
    with pytest.raises(MemoryError), pytest.warns(UserWarning, match="memory is full"):
        evaluate.outputs(none, rows(3))


def test_each_model_is_computed_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Device] = []

    def prepared(model: Any, design: Any, *way: Any) -> Any:
        seen.append(way[-1])
        if len(seen) == 2:
            raise InputError("far enough")
        return None, None

    monkeypatch.setattr(benchmark, "prepare", prepared)
    models = {"here": nn.Linear(3, 2), "there": nn.Linear(2, 3)}
    there = Device(torch.device("cpu"), True)
    places = {models["here"]: Device.of("cpu"), models["there"]: there}
    monkeypatch.setattr(Device, "of_model", places.get)
    with pytest.raises(InputError, match="far enough"):
        robustness(models, (torch.rand(4, 3), torch.zeros(4, dtype=torch.int64)), "bayesft", [0.5], chips=2)
    assert seen == [*places.values()]
