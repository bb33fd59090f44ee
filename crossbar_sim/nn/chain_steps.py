"""Which models are chains: found by tracing the forward, so that a network of any class can be one."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from crossbar_sim.nn.derived import base_of

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
