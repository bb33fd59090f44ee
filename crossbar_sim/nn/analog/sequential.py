"""Sequential networks (linear layers and activations one after another), evaluated on many chips at once.

Calling the modules of a small network, with their properties and checks for stale arrays, takes several times as long
as its arithmetic. `SequentialChips` knows the steps beforehand and writes the weights of several chips at a time. Each
chip still runs separately, in the operations of the model's own forward: results are bit-identical, whichever chips
are written together.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.kernels import lognormal_chips
from crossbar_sim.crossbar.layer_designs import Design, design_at, readout_effects
from crossbar_sim.crossbar.stream import Float32, Stream
from crossbar_sim.data.inputs import Batch
from crossbar_sim.nn.analog.chips import analog_state
from crossbar_sim.nn.analog.copying import base_of
from crossbar_sim.nn.analog.layers import arrays_of
from crossbar_sim.nn.analog.programming import check_finite
from crossbar_sim.nn.analog.state import AnalogState, ArraySlot
from crossbar_sim.nn.fast_operators import product
from crossbar_sim.nn.multinomial import MultinomialDropout
from crossbar_sim.rng import Key, check_chip

TracedStep = nn.Module | Callable[[Tensor], Tensor]

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Softplus, nn.Softsign,
)  # fmt: skip
"""Elementwise, without parameters or randomness."""

IDENTITIES = (nn.Identity, nn.Dropout, nn.AlphaDropout, MultinomialDropout)
"""Layers that are the identity in evaluation mode."""

FUNCTIONS = (F.relu, torch.relu, F.tanh, torch.tanh, F.sigmoid, torch.sigmoid, F.gelu, F.silu)
"""Activations as functions."""


def flatten(x: Tensor) -> Tensor:
    """Flatten all but the first dimension: stands for every way to write that in a traced forward."""
    return x.flatten(1)


def trace_sequential(model: nn.Module, *more: type[nn.Module]) -> list[TracedStep] | None:
    """The steps of a model that applies linear layers, activations and dropout one after another.

    The forward is traced with symbolic inputs, so that a network of any class can qualify; a forward that depends on
    the values of its inputs does not.

    Args:
        model: of any class.
        more: classes of modules that may be steps as well.

    Returns:
        Modules, activation functions and `flatten`, in order, at least one of them a linear layer; None if the model
        does anything else, or has forward hooks.
    """
    if isinstance(model, fx.GraphModule) or any(_is_hooked(module) for module in model.modules()):
        return None
    try:
        nodes = list(fx.Tracer().trace(model).nodes)
    except Exception:  # raised by the user's own code on symbolic values
        return None
    steps: list[TracedStep] = []
    for before, node in pairwise(nodes):
        # each node takes the result of the one before it, which nothing else takes
        if node.all_input_nodes != [before] or len(before.users) != 1:
            return None
        if node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                return None
            continue
        step = _step(model, node, more)
        if step is None:
            return None
        steps.append(step)
    return steps if any(isinstance(step, nn.Linear) for step in steps) else None


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


def _step(model: nn.Module, node: fx.Node, more: tuple[type[nn.Module], ...]) -> TracedStep | None:
    """The step that a node performs; None for an unsupported operation."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        base = base_of(module)
        if base is nn.Flatten:
            return flatten if (module.start_dim, module.end_dim) == (1, -1) else None
        return module if base in (nn.Linear, *ACTIVATIONS, *IDENTITIES, *more) else None
    arguments = [*node.args[1:], *node.kwargs.values()]
    if node.target in (torch.flatten, "flatten"):
        return flatten if arguments == [1] and "end_dim" not in node.kwargs else None
    if node.target in ("view", "reshape"):  # x.view(-1, 784)
        return flatten if len(arguments) == 2 and arguments[0] == -1 and type(arguments[1]) is int else None
    if node.op == "call_function" and node.target in FUNCTIONS and not set(node.kwargs) - {"inplace"}:
        function: Any = node.target
        return function if len(node.args) == 1 else None
    return None


class ChipWriter:
    """Computes the effective weights of one matrix on many chips: the bits of `Hardware.effective_weight`.

    For small networks the checks, keys and calls of one array on one chip take longer than its weights; here they are
    made once per design and matrix.

    Args:
        hardware: the design.
        columns: the transposed matrix (cols, rows), C-contiguous float32, finite.
        key: the array's name.
        scale: `hardware.mapping.scale(columns)`.
    """

    def __init__(self, hardware: Hardware, columns: Float32, key: Key, scale: Float32) -> None:
        self.hardware, self.columns, self.key, self.scale = hardware, columns, key, scale
        self.rates: tuple[Any, ...] | None = None
        if hardware._one_pass(scale):
            inverse = hardware.mapping.inverse(scale)
            name = Stream.of(key.fold("drift"), 0)
            self.rates = (scale[0], inverse[0], *hardware.drift.rates, name.k0, name.k1)  # type: ignore[union-attr]

    def write(self, chips: NDArray[np.uint32], out: Float32) -> None:
        """The effective weights of chips into the first places of out (places, cols, rows), C-contiguous."""
        if self.rates is None:
            for chip, one in zip(chips.tolist(), out, strict=False):
                self.hardware.effective_weight(self.columns, self.key, chip, one, self.scale)
        else:
            lognormal_chips(self.columns.reshape(-1), out.reshape(-1), *self.rates, chips)


MAX_WEIGHTS = 1 << 17
"""Weights written at a time: they stay in the second-level cache."""

MAX_CHIPS = 16
"""Chips written at a time: more save nothing."""


@dataclass(frozen=True, eq=False)
class _Array:
    """What a `ChipWriter` needs: the names, the transposed matrix (cols, rows) on the parameter's memory, its scale."""

    name: str
    layer: str
    columns: Float32
    scale: Float32


@dataclass(frozen=True, eq=False)
class _Parameter:
    """A parameter of a layer; `array` is None if it is the same on all chips."""

    clean: Tensor
    array: _Array | None


class SequentialChips:
    """A sequential analog model with memory for the weights of `size` chips; `of` recognises one.

    Args:
        model: analog; its clean parameters are shared, and its own arrays not used.
        steps: linear layers and activations in order.
        flattens: whether images are flattened before the first linear layer.
    """

    def __init__(self, model: nn.Module, steps: list[TracedStep], flattens: bool) -> None:
        self.design, self.steps, self.flattens = analog_state(model), _prepared(steps), flattens
        layers = [step for step in steps if isinstance(step, nn.Linear)]
        self.features = layers[0].in_features
        self.parameters = [
            _parameter(self.design, layer, name) for layer in layers for name in ("weight", "bias")
        ]
        weights = sum(p.clean.numel() for p in self.parameters if p is not None)
        self.size = max(1, min(MAX_CHIPS, MAX_WEIGHTS // max(weights, 1)))
        self._take_memory()

    @classmethod
    def of(cls, model: nn.Module) -> "SequentialChips | None":
        """The chips of a sequential analog model in evaluation mode; None: the model does anything more."""
        if readout_effects(analog_state(model).hardware):  # converters work product by product
            return None
        steps = None if any(module.training for module in model.modules()) else trace_sequential(model)
        if steps is None or not all(_is_plain(step) for step in steps if isinstance(step, nn.Linear)):
            return None
        first = next(i for i, step in enumerate(steps) if isinstance(step, nn.Linear))
        kept = [step for step in steps if step is not flatten and not isinstance(step, IDENTITIES)]
        return cls(model, kept, flatten in steps[:first])

    def for_thread(self) -> "SequentialChips":
        """The same model with memory of its own: for another thread."""
        other = copy.copy(self)
        other._take_memory()
        return other

    def accepts(self, x: Batch) -> bool:
        """Whether inputs (n, ...) have the dtype, device and size that the steps were made for."""
        if not isinstance(x, Tensor):
            return False
        flat = x.dim() == 2 or (x.dim() > 2 and self.flattens)
        plain = x.dtype == torch.float32 and x.device.type == "cpu"
        return flat and plain and x[:1].numel() == self.features

    def _take_memory(self) -> None:
        self.hardware: Design | None = None
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

    def program(self, hardware: Design, chips: Sequence[int]) -> None:
        """Write the weights of at most `size` chips, which then have the places 0, 1, ..."""
        if hardware != self.hardware:
            self.writers = list(self._writers(hardware))
            self.hardware = hardware
        numbers = np.array([check_chip(chip) for chip in chips], np.uint32)
        for writer, out in self.writers:
            writer.write(numbers, out)

    def _writers(self, hardware: Design) -> Iterator[tuple[ChipWriter, Float32]]:
        for p, memory in zip(self.parameters, self.memory, strict=True):
            if p is not None and p.array is not None:
                key, columns = self.design.key(p.array.name), p.array.columns
                out = memory.view(self.size, *columns.shape).numpy()
                own = design_at(hardware, p.array.layer)
                assert own is not None  # a digital layer has no array
                yield ChipWriter(own, columns, key, p.array.scale), out

    def __call__(self, place: int, x: Tensor) -> Tensor:
        """Outputs (b, classes) of the chip at a place for inputs (b, ...), in inference mode."""
        h = x.flatten(1)
        for step in self.plans[place]:
            h = product(h, *step) if type(step) is tuple else step(h)
        return h


def _prepared(steps: list[TracedStep]) -> list[Callable[[Tensor], Tensor] | None]:
    """None for a linear layer; a ReLU overwrites what a layer gave, since a fresh tensor costs more than it does."""
    first = next(i for i, step in enumerate(steps) if isinstance(step, nn.Linear))
    prepared: list[Callable[[Tensor], Tensor] | None] = []
    for i, step in enumerate(steps):
        relu = i > first and (type(step) is nn.ReLU or step in (F.relu, torch.relu))
        prepared.append(None if isinstance(step, nn.Linear) else torch.relu_ if relu else step)
    return prepared


def _slots(layer: nn.Linear) -> dict[str, ArraySlot]:
    arrays = arrays_of(layer)
    return {} if arrays is None else arrays.slots


def _is_plain(layer: nn.Linear) -> bool:
    """Whether each array of the layer is one whole float32 parameter in CPU memory."""
    for slot in _slots(layer).values():
        if slot.fold or slot.ideal or slot.bias or slot.layout.order not in ("out_in", "vector"):
            return False
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    return weight is not None and all(
        p is None or (p.dtype == torch.float32 and p.device.type == "cpu" and p.is_contiguous())
        for p in (weight, bias)
    )


def _parameter(design: AnalogState, layer: nn.Linear, name: str) -> _Parameter | None:
    parameter, slot = layer._parameters.get(name), _slots(layer).get(name)
    if parameter is None or slot is None:
        return None if parameter is None else _Parameter(parameter.detach(), None)
    columns = slot.columns(layer).detach()
    check_finite(columns, slot.name)
    scale = design.of(slot.layer).mapping.scale(columns.numpy())
    return _Parameter(parameter.detach(), _Array(slot.name, slot.layer, columns.numpy(), scale))
