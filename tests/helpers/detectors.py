"""Detectors and scenes for tests: an oracle that needs no torchvision, and the smallest Mask R-CNN."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crossbar_sim.data import Scenes, Splits, load_data, make_pedestrians
from crossbar_sim.nn.networks.detection import objects
from crossbar_sim.rng import Key

TINY: dict[str, Any] = {"side": 64, "width": 4, "detections": 8}


class Oracle(nn.Module):
    """Reads the box of the one object of an image from its first four pixels, through a linear layer that drifts."""

    task: ClassVar[str] = "detection"

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4, bias=False)
        nn.init.eye_(self.fc.weight)

    def forward(self, x: Tensor) -> Tensor:
        boxes = 100 * self.fc(x[:, 0, 0, :4])
        rest = torch.tensor([0.9, 1.0]).expand(len(x), 2)
        return torch.cat([boxes, rest], 1)[:, None]

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        boxes = torch.stack([objects(numbers)[1][0] for numbers in y])
        return (100 * self.fc(x[:, 0, 0, :4]) - boxes).abs().mean()


def written_scenes(n: int = 5) -> Scenes:
    """Images that show one object each and have its box written into their first four pixels, in hundredths."""
    x, y = torch.zeros(n, 3, 40, 60), torch.zeros(n, 40, 60, dtype=torch.uint8)
    for i in range(n):
        left, top, right, bottom = 5 + 3 * i, 4 + i, 30 + 4 * i, 35 - 2 * i
        x[i, 0, 0, :4] = torch.tensor([left, top, right, bottom]) / 100
        y[i, top:bottom, left:right] = 1
    return Scenes(x, y)


def drawn(folder: Path, n: int = 12) -> Splits:
    """Drawings in the official layout, small."""
    make_pedestrians(folder, n, Key(1), height=48)
    return load_data("pennfudan", folder)
