"""Heads on the intermediate layers of a network, which give logits of their own while it trains."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.dropout_sites import sites
from crossbar_sim.nn.evaluate import inputs_for, outputs
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.rng import Key

HIDDEN, POOLED = 512, 2304
"""Width of a head's hidden layer, and the most values of an image that it gets, after average pooling."""


class WithHeads(nn.Module):
    """A network whose intermediate values (b, features) or (b, channels, h, w) go to a head each while it trains.

    A head is average pooling of images, a linear layer, ReLU and a linear layer. Heads stand at the dropout sites:
    the network's own dropout layers, or behind every layer with weights but the last, and its activation.

    Args:
        network: a classifier, logits (b, classes).
        x: training examples, one of which says what the values are.
        key: of the heads' initialisation.

    Raises:
        InputError: if there is no such layer, its values or the outputs have another shape, or the network does not
            take x.
    """

    def __init__(self, network: nn.Module, x: Batch, key: Key) -> None:
        super().__init__()
        self.network = network
        names = list(dict.fromkeys(site.after for site in sites(network)))
        self.seen: dict[str, Tensor] = {}
        self._looking = True
        modules = dict(network.named_modules())
        missing = [name for name in names if name not in modules]
        if missing:
            raise InputError(
                f"{missing[0]} is no module of the network: snapshots need modules, not an exported graph"
            )
        self._handles = [modules[name].register_forward_hook(self._keep(name)) for name in names]
        out = outputs(network.eval(), inputs_for(network, x[:1])[0], 1, fast=False)[0]
        if out.dim() != 2:
            raise InputError(
                f"snapshots: logits of shape (b, classes) are needed, not {('b', *out.shape[1:])}: use "
                "feedback=forwards"
            )
        self.names = [name for name in names if name in self.seen]
        if not self.names:
            raise InputError(
                f"snapshots: the forward of {type(network).__name__} calls none of {', '.join(names)}: use "
                "feedback=forwards"
            )
        with seeded(key.fold("heads")):
            self.heads = nn.ModuleList(_head(name, self.seen[name], out.shape[1]) for name in self.names)
        self.seen.clear()
        self._looking = False

    def forward(self, *x: Any, **named: Any) -> Any:
        """What the network gives."""
        return self.network(*x, **named)

    def snapshots(self) -> list[Tensor]:
        """The heads' logits (b, classes) for the last forward, the first layer's first."""
        return [head(self.seen[name]) for name, head in zip(self.names, self.heads, strict=True)]

    def remove(self) -> nn.Module:
        """The network without the heads."""
        for handle in self._handles:
            handle.remove()
        return self.network

    def _keep(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if self.training or self._looking:
                # a later layer may write to its input
                self.seen[name] = output.clone() if isinstance(output, Tensor) else output

        return keep


def _head(name: str, values: Tensor, classes: int) -> nn.Sequential:
    if not isinstance(values, Tensor) or values.dim() not in (2, 4):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InputError(
            f"snapshots: {name} gives {shape}, and a head takes (b, features) or (b, channels, h, w): use "
            "feedback=forwards"
        )
    before: list[nn.Module] = []
    size = values.shape[1]
    if values.dim() == 4:
        side = max(1, min(math.isqrt(POOLED // size), *values.shape[2:]))
        before, size = [nn.AdaptiveAvgPool2d(side), nn.Flatten()], size * side**2
    first, last = nn.Linear(size, HIDDEN), nn.Linear(HIDDEN, classes)
    for layer in (first, last):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*before, first, nn.ReLU(), last)
