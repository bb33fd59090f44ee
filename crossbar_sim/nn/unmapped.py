"""Weights that are on no array, and why, in the words of the report."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from crossbar_sim.nn.graph import Use, is_unflattened
from crossbar_sim.nn.layer import Layer
from crossbar_sim.nn.matrices import DIGITAL, NORMALISATION, RULES

CONSTANTS = "constants of a frozen normalisation, no parameters: they stay digital and do not drift"

PARAMETRISED = (
    "its weight is computed by a parametrization: call torch.nn.utils.parametrize.remove_parametrizations "
    "(or prune.remove, remove_weight_norm) before deploying or exporting"
)

_QUANTISED = "a quantised layer, whose packed integers stay digital and exact: deploy the float model"
_LISTED = "held where torch does not look for layers (a plain list, say): it stays digital and exact; use nn.ModuleList"
_CONSTANT = "a weight that is no parameter: it stays digital and exact; make it an nn.Parameter"


def why_digital(module: nn.Module) -> str:
    """Why none of the module's own parameters is a matrix on an array."""
    if isinstance(module, NORMALISATION):
        return "an affine normalisation"
    for cls, reason in DIGITAL.items():
        if isinstance(module, cls):
            return reason
    parts = isinstance(module, nn.utils.parametrize.ParametrizationList)
    if parts or any(name.endswith(("_g", "_v", "_orig")) for name in module._parameters):
        return PARAMETRISED
    if isinstance(module, tuple(RULES)):
        return "no real-valued weight of its own"
    if any(p is not None and p.ndim >= 2 for p in module._parameters.values()):
        return (
            "a parameter of a class that is no known layer: export the model, and products with it are found"
        )
    return "no weight matrix"


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
