"""Arrays that are programmed for each use: the same numbers, in the memory of one layer."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.analog_models import made, numbers
from helpers.graphs import export
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crossbar_sim import Hardware, InputError, LogNormalDrift, memory
from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.converters import ADC, DAC
from crossbar_sim.data.inputs import Inputs
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.conversion import map_model, to_digital
from crossbar_sim.robustness import deploy
from crossbar_sim.robustness.calibration import Calibration

DRIFT = LogNormalDrift(0.4)
PLAIN = Hardware(drift=DRIFT)
CONVERTED = Hardware(drift=DRIFT, dac=DAC(bits=6), adc=ADC(bits=6, range="max"))
ROWS = Hardware(drift=DRIFT, bias="row", other="drifting")
FOLDED = Hardware(drift=DRIFT, bias="row", normalisation="folded")


@pytest.fixture(autouse=True)
def _no_limit():
    yield
    memory.set_room(None)


class Tied(nn.Module):
    """Tokens, a digital table, and a head with the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(11, 6), nn.Linear(6, 6), nn.Linear(6, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.table(x))))


class Cells(nn.Module):
    """A cell that runs step by step, and a layer that keeps what it read for later."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.a, self.b = nn.LSTMCell(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        first, second = self.a.weight, self.b.weight  # both at once
        return state[0] @ first.t() @ second.t() + self.b.bias


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, num_layers=2, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(),
        nn.ConvTranspose2d(4, 3, 2), nn.Flatten(), nn.Linear(75, 3),
    )  # fmt: skip


def attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Linear(4, 8), layer, nn.Flatten(), nn.Linear(40, 3))


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=17,
        n_positions=8,
        n_embd=8,
        n_layer=2,
        n_head=2,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def graph() -> nn.Module:
    return export(made(images), (numbers(2, 2, 6, 6),), ({0: torch.export.Dim("batch", min=2)},))


def layers(n: int = 8) -> nn.Module:
    return nn.Sequential(*(part for _ in range(n) for part in (nn.Linear(48, 48), nn.Tanh())))


SEQUENCES, TOKENS = numbers(6, 5, 4), torch.arange(30).reshape(6, 5) % 11
PICTURES = numbers(6, 2, 6, 6)
CASES: dict[str, tuple[Callable[[], nn.Module], Any, Hardware]] = {
    "linear": (layers, numbers(6, 48), PLAIN),
    "linear in bfloat16": (lambda: layers().bfloat16(), numbers(6, 48).bfloat16(), PLAIN),
    "images": (images, PICTURES, PLAIN),
    "images, folded, bias rows": (images, PICTURES, FOLDED),
    "images, converters": (images, PICTURES, CONVERTED),
    "graph": (graph, PICTURES, PLAIN),
    "graph, folded, bias rows": (graph, PICTURES, FOLDED),
    "graph, converters": (graph, PICTURES, CONVERTED),
    "tied": (Tied, TOKENS, PLAIN),
    "cells": (Cells, SEQUENCES, ROWS),
    "recurrent": (Recurrent, SEQUENCES, ROWS),
    "attention": (attention, SEQUENCES, ROWS),
    "attention, converters": (attention, SEQUENCES, CONVERTED),
    "gpt2": (gpt2, Inputs(kwargs={"input_ids": TOKENS}), PLAIN),
    "gpt2, in bfloat16": (lambda: gpt2().bfloat16(), Inputs(kwargs={"input_ids": TOKENS}), ROWS),
}


def report(model: nn.Module, x: Any, hardware: Hardware, **options: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return deploy(
            model, x, None, hardware, chips=2, metric="output_error", sensitivity_chips=1, block=3, **options
        ).as_dict()


@pytest.mark.parametrize("name", CASES)
def test_numbers_do_not_depend_on_memory(name):
    build, x, hardware = CASES[name]
    model = build() if build is graph else made(build)
    whole = report(model, x, hardware)
    memory.set_room(0)
    streamed = report(model, x, hardware)
    (note,) = [note for note in streamed.pop("notes") if "--memory" in note]
    assert "programmed for each use" in note
    assert not any("--memory" in note for note in whole.pop("notes"))
    assert streamed == whole
    assert whole["drifted"]["output_error"]["mean"] > 0


class Matrices(TorchDispatchMode):
    """Counts the tensors of a size that are in memory at a time, beside those of a model."""

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.size, self.most, self.seen = size, 0, {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.untyped_storage().nbytes() == self.size:
                place = value.untyped_storage().data_ptr()
                if place not in self.own:
                    self.seen[place] = StorageWeakRef(value.untyped_storage())
        self.seen = {place: held for place, held in self.seen.items() if not held.expired()}
        self.most = max(self.most, len(self.seen))
        return result


@pytest.mark.parametrize("kind", ["layers", "graph"])
def test_one_layer_is_in_memory(kind, monkeypatch):
    monkeypatch.setattr(threads._pool, "count", 1)
    model, x, matrix = layers(), numbers(6, 48), 4 * 48 * 48
    if kind == "graph":
        model = export(model.eval(), (x,))
    # the others are programmed for each use: one at a time, beside those that are kept
    for room, most in ((None, 8), (0, 1), ((3.5 * matrix + 8 * 4 * 48) / 2**30, 3 + 1)):
        memory.set_room(room)
        with Matrices(model, matrix) as found:
            report(model, x, PLAIN, fixed=6 if kind == "graph" else None)
        assert found.most == most


@pytest.mark.parametrize("calibrate", ["affine", "lora:rank=1"])
def test_calibration_does_not_depend_on_memory(calibrate):
    model, x = made(lambda: layers(3)), numbers(40, 48)
    data = {"train": (x, torch.arange(40) % 3), "validation": (x, torch.arange(40) % 3)}
    found = []
    for room in (None, 0):
        memory.set_room(room)
        found.append(report(model, x, PLAIN, calibrate=Calibration(calibrate, 40), calibration_data=data))
    (note,) = [note for note in found[1].pop("notes") if "--memory" in note]
    assert ("kept in memory" in note) == ("lora" in calibrate)
    found[0].pop("notes")
    assert found[0] == found[1]


def test_gradients_and_copies_of_a_model_that_is_streamed():
    model, x = made(layers), numbers(6, 48)
    whole, _ = map_model(model, PLAIN, x)
    memory.set_room(0)
    streamed, _ = map_model(model, PLAIN, x)
    assert len(chips.analog_state(streamed).streamed) == 8
    grads = []
    for analog in (whole, streamed):
        chips.set_chip(analog, 3)
        model.zero_grad()
        analog(x).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
        with torch.no_grad():
            first = analog(x)
            model[0].weight.mul_(2)  # a stale array is programmed again
            assert not torch.equal(analog(x), first)
            model[0].weight.div_(2)
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    with torch.no_grad():
        assert torch.equal(to_digital(streamed)(x), whole(x))
        assert torch.equal(streamed(x), whole(x))


def test_memory_for_weights():
    assert memory.room(10) == 10
    assert memory.room(2**40, free=2**31) == 2**30
    memory.set_room(0.5)
    assert memory.room(2**40) == memory.room(0) == 2**29
    assert memory.limit(4) == 0.5
    for bad in (-1, float("nan"), "4"):
        with pytest.raises(InputError, match="0 or more, such as 4"):
            memory.set_room(bad)
    assert memory.available() > 2**20
