"""The package's networks, by name: `build("mlp", hidden=(64,))`; docs/networks.md has a table of them.

Names with hyphens are this package's: `resnet18`, `vgg11` and the like are torchvision's (`nn/files/architectures.py`).
"""

from crossbar_sim.nn.networks.base import NETWORKS, build
from crossbar_sim.nn.networks.coded import AveragedOutputs, Coded
from crossbar_sim.nn.networks.detection import MaskRCNN
from crossbar_sim.nn.networks.fastconv import FastConv
from crossbar_sim.nn.networks.feedforward import MLP, VGG11, AlexNet, LeNet5, SpatialTransformerNet
from crossbar_sim.nn.networks.residual import PreActResNet18, PreActResNet50, PreActResNet152, ResNet18

NETWORKS |= {
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
    "fastconv": FastConv,
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
    "FastConv",
    "LeNet5",
    "MaskRCNN",
    "PreActResNet18",
    "PreActResNet50",
    "PreActResNet152",
    "ResNet18",
    "SpatialTransformerNet",
    "build",
]
