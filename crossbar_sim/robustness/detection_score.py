"""How well one chip finds objects: mean average precision over all its images, one score per chip."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.detection import BLOCK, check_task, detects, precision, truth
from crossbar_sim.nn.device import Device
from crossbar_sim.nn.evaluate import outputs
from crossbar_sim.robustness.metrics import Metric, names_of
from crossbar_sim.robustness.score import Reference, Score

DETECTION_METRICS = names_of("detection")


@dataclass(frozen=True)
class DetectionScore(Score):
    """The scores of one chip of a detector.

    Args:
        map: mean average precision over the overlaps 0.5, 0.55 .. 0.95, as COCO's.
        map50: at overlap 0.5.
    """

    map: float = 0.0
    map50: float = 0.0


@dataclass(frozen=True, eq=False)
class DetectionReference(Reference):
    """Scenes, and the boxes that the clean model finds in them.

    Precision is not a mean over images: boxes of all images are ranked together by their scores. So a chip has one
    score, on all of its images.

    Args:
        x: (n, 3, h, w) images; y: (n, h, w) numbers of objects, see `data.Scenes`.
        clean: (n, k, 6) boxes, see `nn.networks.MaskRCNN`.
    """

    @classmethod
    def of(
        cls,
        model: nn.Module,
        x: Batch,
        y: Tensor | None,
        block: int = BLOCK,
        fixed: int | None = None,
        axis: int | None = None,
        judge: Metric | None = None,
    ) -> "DetectionReference":
        """Run the clean model on the scenes.

        Raises:
            InputError: if there are no objects to find, or the model cannot take the images.
        """
        if axis is not None:
            raise InputError("class_axis has nothing to act on: the outputs of a detector are boxes")
        if y is None:
            raise InputError("a detector is judged on scenes with known objects: give --data pennfudan")
        check_task(model, y)
        clean = torch.cat([t.cpu() for t in outputs(model, x, min(block, BLOCK), fixed)])
        return cls(x, y, clean, min(block, BLOCK), fixed)

    def part(self, indices: Tensor) -> "DetectionReference":
        """The same for some of the images."""
        assert self.y is not None
        return DetectionReference(
            self.x[indices], self.y[indices], self.clean[indices], self.block, self.fixed
        )

    def on(self, device: Device) -> "DetectionReference":
        """The same: images go to the device block by block, and boxes are compared on the CPU."""
        return self

    @property
    def classes(self) -> bool:
        """False: outputs are boxes, not classes."""
        return False

    @property
    def unit(self) -> str:
        """Precision is of whole images."""
        return "example"

    def metric(self, requested: str | None) -> str:
        """The requested metric, or "map".

        Raises:
            InputError: if it is not a metric of detectors.
        """
        if requested is not None and requested not in DETECTION_METRICS:
            raise InputError(
                f"metric={requested!r}: a detector is judged by {' or '.join(DETECTION_METRICS)} (docs/networks.md)"
            )
        return requested or DETECTION_METRICS[0]

    def clean_score(self) -> DetectionScore:
        """The clean model's own score."""
        return self._score(self.clean)

    def score(self, model: nn.Module) -> DetectionScore:
        """The score of a programmed model; boxes that are not finite find nothing."""
        return self._score(torch.cat([t.cpu() for t in outputs(model, self.x, self.block, self.fixed)]))

    def _score(self, found: Tensor) -> DetectionScore:
        assert self.y is not None
        broken = float((~found.flatten(1).isfinite().all(1)).sum()) / len(found)
        measured = precision(found, truth(self.y))
        return DetectionScore(None, None, None, broken, map=measured.map, map50=measured.map50)


def reference_of(
    model: nn.Module,
    x: Batch,
    y: Tensor | None,
    block: int,
    fixed: int | None = None,
    axis: int | None = None,
    judge: Metric | None = None,
) -> Reference:
    """The examples and what the clean model makes of them, for a classifier or a detector; see `Reference.of`.

    Raises:
        InputError: as `Reference.of`, or if the examples are for the other kind of model.
    """
    if y is not None:
        check_task(model, y)
    kind: Any = DetectionReference if detects(model) else Reference
    found: Reference = kind.of(model, x, y, block, fixed, axis, judge)
    return found
