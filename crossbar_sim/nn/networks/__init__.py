"""Our own networks, by name: `build("mlp", hidden=(64,))`; docs/networks.md has a table of them.

Names with hyphens are ours: `resnet18`, `vgg11` and the like are torchvision's (`nn/files/architectures.py`).
"""

import inspect
from typing import Any

from torch import nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.networks.coded import AveragedOutputs, Coded
from crossbar_sim.nn.networks.detection import MaskRCNN
from crossbar_sim.nn.networks.feedforward import MLP, VGG11, AlexNet, LeNet5, SpatialTransformerNet
from crossbar_sim.nn.networks.residual import PreActResNet18, PreActResNet50, PreActResNet152, ResNet18

NETWORKS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "lenet5": LeNet5,
    "coded": Coded,
    "averaged": AveragedOutputs,
    "alexnet-cifar": AlexNet,
    "vgg-11": VGG11,
    "resnet-18": ResNet18,
    "preact-resnet-18": PreActResNet18,
    "preact-resnet-50": PreActResNet50,
    "preact-resnet-152": PreActResNet152,
    "stn": SpatialTransformerNet,
    "mask-rcnn": MaskRCNN,
}

__all__ = [
    "MLP",
    "NETWORKS",
    "VGG11",
    "AlexNet",
    "AveragedOutputs",
    "Coded",
    "LeNet5",
    "MaskRCNN",
    "PreActResNet18",
    "PreActResNet50",
    "PreActResNet152",
    "ResNet18",
    "SpatialTransformerNet",
    "build",
]


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
