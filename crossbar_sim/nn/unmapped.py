"""Weights that are on no array, and why, in the words of the report."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from crossbar_sim.nn.graph import UNUSED, Use, is_unflattened
from crossbar_sim.nn.layer import Layer
from crossbar_sim.nn.matrices import DIGITAL, NORMALISATION, RULES, Matrix

Way = Literal["product", "computed", "operand", "past", "kept", "handed", "read", "unused"]
"""What a forward does with a parameter:

product: it is the matrix of a product;
computed: a product takes a tensor computed from it;
operand: another operator takes it with something that depends on the inputs (a bias, a table);
past: operators take the clean parameter, not what the array gives;
kept: a product takes a copy that an earlier forward kept;
handed: the layer computes with a weight that the forward hands to it (`functional_call`);
read: it is read, and no operator takes it together with an input;
unused: it is not read.
"""


@dataclass(frozen=True)
class Operand:
    """What a forward does with one parameter: the way, by which operator, and whether it also takes the clean one."""

    way: Way
    operator: str = ""
    also_past: bool = False


@dataclass(frozen=True)
class Operands:
    """What one forward does with the parameters of a model: {name of the parameter: what}.

    Args:
        found: by the parameter's name in the module that holds it ("fc.weight"), for those that a module's arrays
            provide.
        matrices: {name of the parameter: how a product takes it}, for those that are no matrix by the class of what
            holds them: a parameter of a class of one's own.
        agrees: whether the arrays of the model that was looked at hold these so.
    """

    found: Mapping[str, Operand] = field(default_factory=dict)
    matrices: Mapping[str, Matrix] = field(default_factory=dict)
    agrees: bool = True

    @property
    def usual(self) -> bool:
        """Whether every parameter is what its kind of layer makes of it: the matrix of a product, a bias, a factor."""
        return self.agrees and all(operand.way in ("product", "operand") for operand in self.found.values())

    def within(self, holder: str) -> tuple[Matrix, ...]:
        """The matrices that a module of that name holds, although its class does not say so."""
        found = self.matrices.items()
        return tuple(matrix for name, matrix in found if name.rpartition(".")[0] == holder)

    def of(self, holder: str, parameter: str) -> Operand | None:
        """What was seen of a parameter; None if it was not looked at."""
        return self.found.get(f"{holder}.{parameter}" if holder else parameter)


_PARTS = ("_g", "_v", "_orig")
"""How the names of parameters end that a weight is computed from."""

CONSTANTS = "constants of a frozen normalisation, no parameters: they stay digital and do not drift"

PARAMETRISED = (
    "its weight is computed by a parametrization: call torch.nn.utils.parametrize.remove_parametrizations "
    "(or prune.remove, remove_weight_norm) before deploying or exporting"
)

NEVER_READ = (
    "no product of this forward reads it (it was not run, or a copy kept before was used): on no array"
)

COMPUTED = "its forward computes another weight from it"
PAST = "its forward takes the clean weight past its array"
KEPT = "its forward goes on with a weight that an earlier forward kept"
HANDED = "the model's forward hands another weight to it (functional_call)"

NO_OPERAND = (NEVER_READ, COMPUTED, PAST, KEPT, HANDED, PARAMETRISED, UNUSED, "no operator was seen")
"""What reasons say of a weight that no product of the forward takes; reports warn of such layers."""

_QUANTISED = "a quantised layer, whose packed integers stay digital and exact: deploy the float model"
_LISTED = "held where torch does not look for layers (a plain list, say): it stays digital and exact; use nn.ModuleList"
_CONSTANT = "a weight that is no parameter: it stays digital and exact; make it an nn.Parameter"


def of_own_class(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of no known class that hold matrices, which only a run of the forward shows the use of."""
    known = (*RULES, *NORMALISATION, *DIGITAL, nn.utils.parametrize.ParametrizationList)
    for name, module in model.named_modules():
        plain = not isinstance(module, (*known, torch.jit.ScriptModule, torch.fx.GraphModule))
        if not plain or is_unflattened(module) or hasattr(module, "parametrizations"):
            continue
        values = [(p, v) for p, v in module._parameters.items() if v is not None]
        # a table of positions begins with a dimension of 1, which goes over the examples
        if any(is_matrix(v) and v.shape[0] > 1 and not p.endswith(_PARTS) for p, v in values):
            yield name, module


def why_digital(module: nn.Module) -> str:
    """Why none of the module's own parameters is a matrix on an array."""
    if isinstance(module, NORMALISATION):
        return "an affine normalisation"
    for cls, reason in DIGITAL.items():
        if isinstance(module, cls):
            return reason
    parts = isinstance(module, nn.utils.parametrize.ParametrizationList)
    if parts or any(name.endswith(_PARTS) for name in module._parameters):
        return PARAMETRISED
    if isinstance(module, tuple(RULES)):
        return "no real-valued weight of its own"
    if any(p is not None and p.ndim >= 2 for p in module._parameters.values()):
        return (
            "a parameter of a class that is no known layer: export the model, and products with it are found"
        )
    return "no weight matrix"


def why_no_operand(operand: Operand) -> str:
    """Why a matrix of a known kind of layer is on no array, from what its forward was seen to do with it."""
    if operand.way == "computed":
        return f"{COMPUTED} ({operand.operator}), which stays digital"
    if operand.way == "operand":
        return f"taken by {operand.operator}, no matrix product of an input with it"
    if operand.way == "past":
        return f"{PAST} (by parameters(), functional_call, a closure or a cache): digital and clean"
    if operand.way == "kept":
        return f"{KEPT} (in a closure, a global or a cache): digital and clean"
    if operand.way == "handed":
        return f"{HANDED}, so its own is on no array"
    if operand.way == "read":
        return (
            "its forward reads it, but no operator was seen to take it together with an input (a copy kept before may "
            "be used): digital"
        )
    return NEVER_READ


def is_computed(parameter: str, operator: str) -> bool:
    """Whether a parameter of an exported graph, taken by `operator`, is one that a weight is computed from."""
    computed = "parametrizations" in parameter.split(".") or parameter.endswith("_orig")
    return computed or operator.startswith("_weight_norm")


def is_matrix(value: Tensor | None) -> bool:
    """Whether a tensor has more than one row and more than one column: not a bias, whatever its shape."""
    return value is not None and sum(size > 1 for size in value.shape) >= 2


def constants(uses: Iterable[Use]) -> list[Layer]:
    """Lines for buffers and constants that take part in matrix products of an exported graph."""
    return [Layer(use.parameter, use.kind, False, _CONSTANT) for use in uses]


def hidden(model: nn.Module) -> Iterator[Layer]:
    """Lines for weights of a model of modules that are in no parameter of it.

    Quantised layers, layers in plain containers, and buffers or plain tensors with the name of a weight
    (which one of another name is, such as a mask or a table of positions, cannot be told here).
    """
    quantised: list[str] = []
    registered = {id(module) for module in model.modules()}
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or name.startswith(tuple(f"{q}." for q in quantised)):
            continue
        dot = f"{name}." if name else ""
        if type(module).__module__.startswith("torch.ao.nn.quantized") and (
            hasattr(module, "_packed_params") or hasattr(module, "_all_weight_values")
        ):
            quantised.append(name)
            yield Layer(name or type(module).__name__, type(module).__name__, False, _QUANTISED)
            continue
        for attribute, value in () if is_unflattened(module) else vars(module).items():
            for key, layer in _items(value):
                if id(layer) not in registered and any(True for _ in layer.parameters()):
                    yield Layer(f"{dot}{attribute}{key}", type(layer).__name__, False, _LISTED)
        for attribute, value in {**module._buffers, **vars(module)}.items():
            if isinstance(value, Tensor) and _is_weight(attribute, value, module):
                yield Layer(f"{dot}{attribute}", type(module).__name__, False, _CONSTANT)


def _items(value: object) -> Iterator[tuple[str, nn.Module]]:
    """Modules that an attribute holds, with the rest of their names."""
    if isinstance(value, nn.Module):
        yield "", value
    elif isinstance(value, list | tuple | dict):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        yield from ((f".{key}", item) for key, item in pairs if isinstance(item, nn.Module))


def _is_weight(name: str, value: Tensor, module: nn.Module) -> bool:
    """Whether a tensor that is no parameter is named as a weight, and not made of parameters or a mask of one."""
    made = any(f"{name}{end}" in module._parameters for end in ("_orig", "_g", "_v"))
    named = name in ("w", "W", "kernel") or "weight" in name
    return (
        named and not made and not name.endswith("_mask") and value.is_floating_point() and is_matrix(value)
    )
