"""Chains: networks that are linear layers one after another, with activations between, run without their modules.

A small network computes in a tenth of a millisecond what its modules, properties and checks for stale arrays take
several times as long to call. A chain knows the steps beforehand, and writes the weights of several chips at a time.
Each chip still runs by itself, in the operations of the model's own forward: the same bits, whichever others are
written with it.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossbar_sim.crossbar.chip_writer import ChipWriter
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.nn.analog import arrays_of
from crossbar_sim.nn.chain_steps import Step, steps_of
from crossbar_sim.nn.chips import design
from crossbar_sim.nn.programming import check_finite
from crossbar_sim.nn.routes import product
from crossbar_sim.nn.slot import Slot
from crossbar_sim.rng import check_chip

WEIGHTS = 1 << 17
"""Weights written at a time, which stay in the second-level cache: of small networks those of several chips."""

MOST = 16
"""Chips written at a time: with more there is nothing left to save."""


@dataclass(frozen=True, eq=False)
class _Array:
    """What a `ChipWriter` needs: the name, the transposed matrix (cols, rows) on the parameter's memory, its scale."""

    name: str
    columns: Float32
    scale: Float32


@dataclass(frozen=True, eq=False)
class _Parameter:
    """A parameter of a layer; `array` is None if it is the same on all chips."""

    clean: Tensor
    array: _Array | None


class Chain:
    """A chain with memory for the weights of `size` chips; `of` recognises one.

    Args:
        model: analog; its clean parameters are shared, and its own arrays not used.
        steps, flattens: of `steps_of`.
    """

    def __init__(self, model: nn.Module, steps: list[Step], flattens: bool) -> None:
        self.design, self.steps, self.flattens = design(model), _prepared(steps), flattens
        layers = [step for step in steps if isinstance(step, nn.Linear)]
        self.features = layers[0].in_features
        hardware = self.design.hardware
        self.parameters = [
            _parameter(hardware, layer, name) for layer in layers for name in ("weight", "bias")
        ]
        weights = sum(p.clean.numel() for p in self.parameters if p is not None)
        self.size = max(1, min(MOST, WEIGHTS // max(weights, 1)))
        self._take_memory()

    @classmethod
    def of(cls, model: nn.Module) -> "Chain | None":
        """The chain that an analog model is; None: it is anything more."""
        if design(model).hardware.reading:  # converters work product by product
            return None
        found = steps_of(model)
        if found is None or not all(_simple(step) for step in found[0] if isinstance(step, nn.Linear)):
            return None
        return cls(model, *found)

    def twin(self) -> "Chain":
        """The same chain with memory of its own: for another thread."""
        other = copy.copy(self)
        other._take_memory()
        return other

    def takes(self, x: Tensor) -> bool:
        """Whether inputs (n, ...) are such as the chain was made for."""
        flat = x.dim() == 2 or (x.dim() > 2 and self.flattens)
        plain = x.dtype == torch.float32 and x.device.type == "cpu"
        return flat and plain and x[:1].numel() == self.features

    def _take_memory(self) -> None:
        self.hardware: Hardware | None = None
        self.writers: list[tuple[ChipWriter, Float32]] = []
        self.memory: list[Any] = [
            None if p is None else p.clean.expand(self.size, *p.clean.shape).clone() for p in self.parameters
        ]
        self.plans = [self._plan(place) for place in range(self.size)]

    def _plan(self, place: int) -> list[Any]:
        """What to do with inputs: (weight, bias) of linear layers, and activations."""
        mine = [None if m is None else m[place] for m in self.memory]
        layers = zip(mine[::2], mine[1::2], strict=True)
        return [next(layers) if step is None else step for step in self.steps]

    def program(self, hardware: Hardware, chips: Sequence[int]) -> None:
        """Write the weights of at most `size` chips, which then have the places 0, 1, ..."""
        if hardware != self.hardware:
            self.writers = list(self._writers(hardware))
            self.hardware = hardware
        numbers = np.array([check_chip(chip) for chip in chips], np.uint32)
        for writer, out in self.writers:
            writer.write(numbers, out)

    def _writers(self, hardware: Hardware) -> Iterator[tuple[ChipWriter, Float32]]:
        for p, memory in zip(self.parameters, self.memory, strict=True):
            if p is not None and p.array is not None:
                key, columns = self.design.key(p.array.name), p.array.columns
                out = memory.view(self.size, *columns.shape).numpy()
                yield ChipWriter(hardware, columns, key, p.array.scale), out

    def __call__(self, place: int, x: Tensor) -> Tensor:
        """Outputs (b, classes) of the chip at a place for inputs (b, ...), in inference mode."""
        h = x.flatten(1)
        for step in self.plans[place]:
            h = product(h, *step) if type(step) is tuple else step(h)
        return h


def _prepared(steps: list[Step]) -> list[Callable[[Tensor], Tensor] | None]:
    """None for a linear layer; a ReLU overwrites what a layer gave, since a fresh tensor costs more than it does."""
    first = next(i for i, step in enumerate(steps) if isinstance(step, nn.Linear))
    prepared: list[Callable[[Tensor], Tensor] | None] = []
    for i, step in enumerate(steps):
        relu = i > first and (type(step) is nn.ReLU or step in (F.relu, torch.relu))
        prepared.append(None if isinstance(step, nn.Linear) else torch.relu_ if relu else step)
    return prepared


def _slots(layer: nn.Linear) -> dict[str, Slot]:
    arrays = arrays_of(layer)
    return {} if arrays is None else arrays.slots


def _simple(layer: nn.Linear) -> bool:
    """Whether each array of the layer is one parameter as it lies in memory."""
    for slot in _slots(layer).values():
        if slot.fold or slot.ideal or slot.bias or slot.layout.order not in ("out_in", "vector"):
            return False
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    return weight is not None and all(
        p is None or (p.dtype == torch.float32 and p.device.type == "cpu" and p.is_contiguous())
        for p in (weight, bias)
    )


def _parameter(hardware: Hardware, layer: nn.Linear, name: str) -> _Parameter | None:
    parameter, slot = layer._parameters.get(name), _slots(layer).get(name)
    if parameter is None or slot is None:
        return None if parameter is None else _Parameter(parameter.detach(), None)
    columns = slot.columns(layer).detach()
    check_finite(columns, slot.name)
    scale = hardware.mapping.scale(columns.numpy())
    return _Parameter(parameter.detach(), _Array(slot.name, columns.numpy(), scale))
