"""Our own small networks, by name: `build("mlp", hidden=(64,))`."""

import inspect
from typing import Any

from torch import nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.networks.lenet5 import LeNet5
from crossbar_sim.nn.networks.mlp import MLP

NETWORKS: dict[str, type[nn.Module]] = {"mlp": MLP, "lenet5": LeNet5}

__all__ = ["MLP", "NETWORKS", "LeNet5", "build"]


def build(name: str, **arguments: Any) -> nn.Module:
    """Build the network called `name`; its class documents the arguments.

    Raises:
        InputError: the name is not in `NETWORKS`, or an argument is unknown or out of range.
    """
    if not isinstance(name, str) or name not in NETWORKS:
        raise InputError(f"network {name!r} is unknown: choose from {', '.join(NETWORKS)}")
    allowed = inspect.signature(NETWORKS[name]).parameters
    for argument in arguments:
        if argument not in allowed:
            raise InputError(
                f"network {name!r} takes no argument {argument!r}: its arguments are {', '.join(allowed)}"
            )
    return NETWORKS[name](**arguments)
