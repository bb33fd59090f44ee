"""Small networks of every name, for tests: add a network here, and every test takes it."""

import torch
from torch import nn

from crossbar_sim import Key
from crossbar_sim.nn import seeded
from crossbar_sim.nn.networks import build

IMAGES = (3, 16, 16)
BIG = (3, 32, 32)
SMALL = {
    "mlp": ({"inputs": 768, "hidden": (8, 6, 4)}, IMAGES),
    "lenet5": ({"channels": 3, "size": 16}, IMAGES),
    "alexnet-cifar": ({"width": 4, "hidden": (8,)}, BIG),
    "vgg-11": ({"width": 2, "hidden": (8,)}, BIG),
    "resnet-18": ({"width": 4}, IMAGES),
    "preact-resnet-18": ({"width": 4}, IMAGES),
    "preact-resnet-50": ({"width": 2}, IMAGES),
    "preact-resnet-152": ({"width": 2}, IMAGES),
    "stn": ({"width": 3, "classes": 5}, BIG),
}
SITES = {
    "mlp": ["dropout1", "dropout2", "dropout3"],
    "lenet5": ["dropout1", "dropout2", "dropout3", "dropout4"],
    "alexnet-cifar": [*(f"features.dropout{i}" for i in range(1, 6)), "classifier.dropout1"],
    "vgg-11": [*(f"features.dropout{i}" for i in (1, 2, 4, 6, 8)), "classifier.dropout1"],
    "resnet-18": ["dropout", *(f"layer{i}.{j}.dropout" for i in (1, 2, 3, 4) for j in (0, 1))],
    "stn": [
        *(f"localisation.dropout{i}" for i in (1, 2, 3)),
        *(f"features.dropout{i}" for i in (1, 2, 3)),
        "classifier.dropout1",
    ],
}
SITES["preact-resnet-18"] = SITES["resnet-18"]
RESIDUAL = [name for name in SMALL if "resnet" in name]


def numbers(*shape: int) -> torch.Tensor:
    return torch.sin(torch.arange(float(torch.Size(shape).numel())) * 1.7 + 0.3).reshape(shape)


def made(name: str, **arguments) -> nn.Module:
    """A small network, no weight of it 0: residual branches and localisations start from there."""
    with seeded(Key(1).fold("test")):
        model = build(name, **{**SMALL[name][0], **arguments})
        for p in model.parameters():
            if not p.any():
                nn.init.normal_(p, std=0.1)
    return model


def images(name: str, n: int = 3) -> torch.Tensor:
    return numbers(n, *SMALL[name][1])


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
