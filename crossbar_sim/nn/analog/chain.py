"""Chains of layers that are evaluated on many chips at once."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.nn.analog.chips import ChipWriter, design
from crossbar_sim.nn.analog.copying import base_of
from crossbar_sim.nn.analog.layers import arrays_of
from crossbar_sim.nn.analog.programming import check_finite
from crossbar_sim.nn.analog.state import Slot
from crossbar_sim.nn.fast_operators import product
from crossbar_sim.rng import check_chip

# Which models are chains: found by tracing the forward, so that a network of any class can be one.


Step = nn.Linear | Callable[[Tensor], Tensor]

ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Softplus, nn.Softsign,
)  # fmt: skip
"""Activations without parameters or randomness."""

NOTHING = (nn.Identity, nn.Dropout, nn.AlphaDropout)
"""What does nothing in evaluation mode."""

FUNCTIONS = (F.relu, torch.relu, F.tanh, torch.tanh, F.sigmoid, torch.sigmoid, F.gelu, F.silu)
"""Activations as functions."""


def steps_of(model: nn.Module) -> tuple[list[Step], bool] | None:
    """Linear layers and activations in order, and whether images are flattened before the first layer.

    None where the model is anything more, or is not in evaluation mode. The forward is traced with a stand-in for
    the images, which a forward that looks at their values refuses.
    """
    if isinstance(model, fx.GraphModule) or any(_watched(module) for module in model.modules()):
        return None
    try:
        nodes = list(fx.Tracer().trace(model).nodes)
    except Exception:  # of the user's own code, on values that are none
        return None
    found: list[Step | str] = []
    for before, node in pairwise(nodes):
        # each takes what the one before it gives, and nobody else does
        step = _step(model, node) if node.all_input_nodes == [before] and len(before.users) == 1 else None
        if step is None:
            return None
        found.append(step)
    layers = [i for i, step in enumerate(found) if isinstance(step, nn.Linear)]
    if not layers:
        return None
    return [step for step in found if not isinstance(step, str)], "flatten" in found[: layers[0]]


def _watched(module: nn.Module) -> bool:
    """Whether the module does more than its class says, or is not in evaluation mode."""
    return (
        module.training
        or bool(module._forward_hooks or module._forward_pre_hooks)
        or "forward" in vars(module)
    )


def _step(model: nn.Module, node: fx.Node) -> Step | str | None:
    """What a node does: a step, "flatten", "nothing", or None for anything else."""
    if node.op == "output":
        return "nothing" if isinstance(node.args[0], fx.Node) else None
    if node.op == "call_module":
        return _module(model.get_submodule(str(node.target)))
    arguments = [*node.args[1:], *node.kwargs.values()]
    if node.target in (torch.flatten, "flatten"):
        return "flatten" if arguments == [1] and "end_dim" not in node.kwargs else None
    if node.target in ("view", "reshape"):  # x.view(-1, 784)
        return "flatten" if len(arguments) == 2 and arguments[0] == -1 and type(arguments[1]) is int else None
    if node.op == "call_function" and node.target in FUNCTIONS and not set(node.kwargs) - {"inplace"}:
        function: Any = node.target
        return function if len(node.args) == 1 else None
    return None


def _module(module: nn.Module) -> Step | str | None:
    base = base_of(module)
    if base is nn.Flatten:
        return "flatten" if (module.start_dim, module.end_dim) == (1, -1) else None
    if base in NOTHING:
        return "nothing"
    return module if base is nn.Linear or base in ELEMENTWISE else None


# Chains: networks that are linear layers one after another, with activations between, run without their modules.
#
# A small network computes in a tenth of a millisecond what its modules, properties and checks for stale arrays take
# several times as long to call. A chain knows the steps beforehand, and writes the weights of several chips at
# a time.
# Each chip still runs by itself, in the operations of the model's own forward: the same bits, whichever others are
# written with it.


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
        if design(model).hardware.readout_effects:  # converters work product by product
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
