"""What a model is for: most tell classes apart, a detector finds objects. The loss follows from that."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossbar_sim.errors import InputError


def detects(model: object) -> bool:
    """Whether a model, its class or its analog copy is a detector: its outputs are boxes, and its loss is its own."""
    return getattr(model, "task", None) == "detection"


def check_task(model: nn.Module, y: Tensor) -> bool:
    """Whether this is detection.

    Args:
        model: any.
        y: labels (n,), or numbers of objects (n, h, w) of scenes.

    Raises:
        InputError: if the examples are of one kind and the model of the other.
    """
    scenes = y.dim() == 3 and y.dtype == torch.uint8  # classes of pixels are int64
    if detects(model) and not scenes:
        raise InputError(
            f"{type(model).__name__} finds objects, and these examples have classes: give scenes, such as pennfudan"
        )
    if scenes and not detects(model):
        raise InputError(
            f"these examples are scenes with objects, and {type(model).__name__} tells classes apart: "
            "give a detector, such as mask-rcnn"
        )
    return scenes


def task_loss(model: nn.Module, x: Tensor, y: Tensor, temperature: float = 1.0) -> Tensor:
    """The model's own loss where it brings one, else the cross-entropy of its logits.

    Args:
        model: in training mode.
        x, y: a batch.
        temperature: multiplies the logits; a detector has none, and its callers leave it at 1.
    """
    if detects(model):
        own: Any = model
        found: Tensor = own.loss(x, y)
        return found
    return functional.cross_entropy(model(x) * temperature if temperature != 1.0 else model(x), y)
