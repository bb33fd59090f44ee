"""Networks that are linear layers one after another, run on several chips at once by batched products."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn

from crossbar_sim.nn.chain_steps import ELEMENTWISE, FUNCTIONS

Part = nn.Module | Callable[[Tensor], Tensor]
DROPOUTS = (nn.Dropout, nn.AlphaDropout)


class Sequence:
    """A network as its linear layers, activations and dropout in order; `of` recognises one.

    Args:
        parts: linear layers, activations (modules or functions) and dropout modules.
        flattens: whether images are flattened before the first of them.
    """

    def __init__(self, parts: list[Part], flattens: bool) -> None:
        self.parts, self.flattens = parts, flattens

    @classmethod
    def of(cls, model: nn.Module) -> "Sequence | None":
        """The sequence that a model is; None: it is anything more.

        The forward is traced with a stand-in for the images, which a forward that looks at their values refuses.
        """
        if isinstance(model, fx.GraphModule) or any(_watched(module) for module in model.modules()):
            return None
        try:
            nodes = list(fx.Tracer().trace(model).nodes)
        except Exception:  # of the user's own code, on values that are none
            return None
        parts: list[Part] = []
        flattens = False
        for before, node in pairwise(nodes):
            # each takes what the one before it gives, and nobody else does
            if node.all_input_nodes != [before] or len(before.users) != 1:
                return None
            if node.op == "output":
                if not isinstance(node.args[0], fx.Node):
                    return None
            elif _flattens(model, node):
                if parts:
                    return None
                flattens = True
            else:
                part = _part(model, node)
                if part is None:
                    return None
                parts.append(part)
        return cls(parts, flattens) if any(isinstance(part, nn.Linear) for part in parts) else None

    def takes(self, x: Tensor) -> bool:
        """Whether images (b, ...) are such as its first layer multiplies, once they are flat."""
        first = next(part for part in self.parts if isinstance(part, nn.Linear))
        flat = x.dim() == 2 or (x.dim() > 2 and self.flattens)
        return flat and x[:1].numel() == first.in_features

    def __call__(self, x: Tensor, drifted: Callable[[Tensor], Tensor]) -> Tensor:
        """Outputs (chips, b, classes) for inputs (chips, b, features).

        Args:
            x: each chip's own inputs.
            drifted: gives a parameter as the chips have it, (chips, *shape).
        """
        for part in self.parts:
            if isinstance(part, nn.Linear):
                weight = drifted(part.weight).transpose(1, 2)
                x = (
                    torch.bmm(x, weight)
                    if part.bias is None
                    else torch.baddbmm(drifted(part.bias)[:, None, :], x, weight)
                )
            else:
                x = part(x)
        return x


def _watched(module: nn.Module) -> bool:
    """Whether the module does more than its class says."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


def _flattens(model: nn.Module, node: fx.Node) -> bool:
    arguments = [*node.args[1:], *node.kwargs.values()]
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)
    if node.target in (torch.flatten, "flatten"):
        return bool(arguments == [1]) and "end_dim" not in node.kwargs
    if node.target in ("view", "reshape"):  # x.view(-1, 784)
        return bool(len(arguments) == 2 and arguments[0] == -1) and type(arguments[1]) is int
    return False


def _part(model: nn.Module, node: fx.Node) -> Part | None:
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        known = (nn.Linear, *DROPOUTS, *ELEMENTWISE, nn.Identity)
        return module if type(module) in known else None
    if node.op == "call_function" and node.target in FUNCTIONS and not set(node.kwargs) - {"inplace"}:
        function: Any = node.target
        return function if len(node.args) == 1 else None
    return None
