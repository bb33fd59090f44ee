"""Object detection: targets, losses and mean average precision."""

import contextlib
import io
import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.evaluate import logits, outputs
from crossbar_sim.nn.networks.detection import objects

# What a model is for: most tell classes apart, a detector finds objects. The loss follows from that.


def detects(model: object) -> bool:
    """Whether a model (or its analog copy) is a detector: it outputs boxes and defines its own loss."""
    return getattr(model, "task", None) == "detection"


def check_task(model: nn.Module, y: Tensor) -> bool:
    """Whether model and labels are for object detection.

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


def task_loss(model: nn.Module, x: Batch, y: Tensor, temperature: float = 1.0) -> Tensor:
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
    found = logits(model, x)
    return functional.cross_entropy(found * temperature if temperature != 1.0 else found, y)


# Mean average precision of boxes, as COCO computes it, by torchmetrics.


BLOCK = 8
"""Images per forward of a detector."""

_PRINTING = threading.Lock()
"""COCO's code prints, and standard output is the process's."""


@dataclass(frozen=True)
class Precision:
    """Mean average precision, in 0 .. 1.

    Args:
        map: mean over the overlaps 0.5, 0.55 .. 0.95 that a box must have with an object to count as found.
        map50: at overlap 0.5.
    """

    map: float
    map50: float


def precision(found: Tensor, truth: list[Tensor]) -> Precision:
    """Compare boxes with objects of one class.

    Args:
        found: (n, k, 6) left, top, right, bottom, score, class; rows with score 0 are none. Boxes that are not finite
            find nothing.
        truth: for each image (m, 4) boxes, m >= 1.

    Raises:
        InputError: if torchmetrics or COCO's evaluation is not installed.
    """
    metric = _metric()
    given = []
    for rows in found.cpu():
        kept = rows[(rows[:, 4] > 0) & rows.isfinite().all(1)]
        given.append({"boxes": kept[:, :4], "scores": kept[:, 4], "labels": kept[:, 5].long()})
    meant = [{"boxes": boxes.cpu(), "labels": torch.ones(len(boxes), dtype=torch.int64)} for boxes in truth]
    with _PRINTING, contextlib.redirect_stdout(io.StringIO()):
        metric.update(given, meant)
        result = metric.compute()
    return Precision(float(result["map"]), float(result["map_50"]))


def detector_precision(model: nn.Module, x: Batch, y: Tensor) -> Precision:
    """Of a detector on scenes (`data.Scenes`). Leaves the model in evaluation mode."""
    model.eval()
    return precision(torch.cat(outputs(model, x, BLOCK)), truth(y))


def truth(y: Tensor) -> list[Tensor]:
    """The boxes (m, 4) of the objects of every image, from their numbers (n, h, w)."""
    return [objects(numbers)[1] for numbers in y]


def _metric() -> Any:
    try:
        from torchmetrics.detection import MeanAveragePrecision

        return MeanAveragePrecision(box_format="xyxy", iou_type="bbox", backend="pycocotools")
    except ImportError:  # also of what torchmetrics itself asks for
        raise InputError(
            "mean average precision needs torchmetrics and pycocotools: pip install '.[vision]' in a clone"
        ) from None
