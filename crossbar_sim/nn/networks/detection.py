"""Mask R-CNN (He et al., ICCV 2017, arXiv:1703.06870) by torchvision, as a network from images to boxes."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from crossbar_sim.errors import InputError
from crossbar_sim.nn.networks.base import NORMALISATIONS, Network, count, dropout_rates

BACKBONES = {"small": 128, "resnet50-fpn": 800}
"""By name, and how many pixels the longer side of an image has inside, by default."""

SITES = 7
"""Of dropout: four stages of the backbone, the region proposals, two layers of the box head."""

FROZEN = "frozen"
"""A normalisation by constants (torchvision's FrozenBatchNorm2d), for weights that bring them along."""


class MaskRCNN(Network):
    """Region proposals, and a class, a box and a mask for each.

    In evaluation it gives boxes alone, by which it is judged; the mask head learns along with them, and `detect` gives
    masks too. It brings its own loss, the sum of Mask R-CNN's five. Every weight starts at random, nothing is fetched;
    `detector` is torchvision's module, into which its published weights can be loaded where there are 90 classes.

    Sites: after each of four stages of the backbone (whole channels), after the convolution of the region proposals,
    after both hidden layers of the box head. The mask head has none, since it gives no box.

    Args:
        backbone: "small", four stages of two convolutions and a pyramid of two levels, for CPUs; "resnet50-fpn",
            torchvision's full one.
        side: images are scaled so that the longer side has so many pixels; None: `BACKBONES` says.
        width: maps of the first stage of the small backbone, of which the others have 2, 4 and 8 times as many.
        classes: of objects, background not counted.
        detections: boxes per image at most.
        dropout: one rate in [0, 1) for all sites, or one for each of 7.
        normalisation: None, or a name in `NORMALISATIONS` or "frozen", in the backbone.

    Raises:
        InputError: torchvision is not installed, or an argument is out of range.
    """

    task: ClassVar[str] = "detection"

    def __init__(
        self,
        backbone: str = "small",
        side: int | None = None,
        width: int = 12,
        classes: int = 1,
        detections: int = 20,
        dropout: float | Sequence[float] = 0.0,
        normalisation: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(backbone, str) or backbone not in BACKBONES:
            raise InputError(f"backbone={backbone!r} is unknown: choose from {', '.join(BACKBONES)}")
        if normalisation not in (None, *NORMALISATIONS, FROZEN):
            known = ", ".join((*NORMALISATIONS, FROZEN))
            raise InputError(f"normalisation={normalisation!r} is unknown: choose from None, {known}")
        self.side = count("side", BACKBONES[backbone] if side is None else side, low=64)
        self.detections = count("detections", detections)
        width, classes = count("width", width), count("classes", classes)
        rates = dropout_rates(dropout, SITES)
        parts = _parts()
        make = parts.small if backbone == "small" else parts.full
        self.detector = make(self.side, width, classes + 1, self.detections, rates, normalisation)
        self._given = {
            "backbone": backbone, "side": self.side, "width": width, "classes": classes, "detections": self.detections,
            "normalisation": normalisation,
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """The boxes in images, best first.

        Args:
            x: (b, 3, h, w) in 0 .. 1; the network is in evaluation mode.

        Returns:
            (b, detections, 6): left, top, right, bottom in pixels of x, score in 0 .. 1, class from 1; rows of zeros
            where there are fewer.
        """
        detector, heads = self.detector, self.detector.roi_heads
        height, width = x.shape[-2:]
        images, _ = detector.transform(list(x))
        features = detector.backbone(images.tensors)
        proposals, _ = detector.rpn(images, features)
        pooled = heads.box_head(heads.box_roi_pool(features, proposals, images.image_sizes))
        logits, shifts = heads.box_predictor(pooled)
        found = heads.postprocess_detections(logits, shifts, proposals, images.image_sizes)
        out = x.new_zeros(len(x), self.detections, 6)
        for row, boxes, scores, labels, (h, w) in zip(out, *found, images.image_sizes, strict=True):
            n = len(boxes)
            row[:n, :4] = boxes * boxes.new_tensor([width / w, height / h, width / w, height / h])
            row[:n, 4], row[:n, 5] = scores, labels.to(x.dtype)
        return out

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch, a mean over its images.

        Args:
            x: (b, 3, h, w); the network is in training mode.
            y: (b, h, w) numbers of objects, as in `data.Scenes`: all are of class 1.
        """
        targets = []
        for numbers in y:
            masks, boxes = objects(numbers)
            labels = torch.ones(len(boxes), dtype=torch.int64, device=x.device)
            targets.append({"boxes": boxes, "labels": labels, "masks": masks.to(torch.uint8)})
        losses: dict[str, Tensor] = self.detector(list(x), targets)
        return torch.stack(list(losses.values())).sum()

    def detect(self, x: Tensor) -> list[dict[str, Tensor]]:
        """torchvision's results for images (b, 3, h, w): boxes, labels, scores and masks of each."""
        found: list[dict[str, Tensor]] = self.detector(list(x))
        return found


def objects(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The objects of one image.

    Args:
        numbers: (h, w) integers: 0 where there is none, another number for each object.

    Returns:
        Masks (k, h, w) bool and the smallest boxes around them, (k, 4) float32: left, top, right, bottom in pixels, the
        last two excluded; by ascending number.
    """
    found = numbers.unique()
    masks = numbers == found[found > 0][:, None, None]
    edges = []
    for spans in (masks.any(1), masks.any(2)):  # columns, rows that a mask has pixels in
        places = torch.arange(spans.shape[1], device=numbers.device).expand_as(spans)
        low = torch.where(spans, places, spans.shape[1]).amin(1)
        edges.append((low, torch.where(spans, places + 1, 0).amax(1)))
    (left, right), (top, bottom) = edges
    return masks, torch.stack([left, top, right, bottom], 1).to(torch.float32)


def _parts() -> Any:
    """Import the module that needs torchvision.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        raise InputError("mask-rcnn needs torchvision: pip install '.[vision]' in a clone") from None
    from crossbar_sim.nn.networks import detection_parts

    return detection_parts
