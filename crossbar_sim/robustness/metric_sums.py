"""What the built-in metrics compute: sums over a block of examples, and the score that all of them give together.

The outputs of a language model for a whole data set do not fit into memory, so each metric is a sum over blocks. The
sums are float64 and are added in the order of the blocks: the same bits for any number of threads.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from crossbar_sim.errors import InputError

Float64 = NDArray[np.float64]
Sums = Callable[[Tensor, Tensor], Float64]
"""Of the outputs (b, classes, places...) and targets (b, places...) of a block: any number of sums over it."""
Total = Callable[[Float64, Tensor], float]
"""Of the sums over all blocks and all targets: the score; NaN where it does not exist."""

IGNORED = -100
"""The label of a token or pixel that is not judged; any negative label is taken as such."""


def predictions(outputs: Tensor) -> Tensor:
    """The class of each place, (b, places...); -1 in examples with an output that is not finite: of no class."""
    found = outputs.argmax(1)
    if not math.isfinite(float(outputs.sum())):  # one pass; a sum may overflow where no output does
        found[~outputs.reshape(len(outputs), -1).isfinite().all(1)] = -1
    return found


def ranks(outputs: Tensor, targets: Tensor) -> Tensor:
    """How many classes come before the target's: larger outputs, and equal ones of a lower number.

    Equal outputs are no luck then: of a dead chip, which gives 0 for every class, only class 0 is found first.
    """
    place = targets.clamp_min(0).unsqueeze(1)
    own = outputs.gather(1, place)
    shape = [1] * outputs.dim()
    shape[1] = -1
    lower = torch.arange(outputs.shape[1], device=outputs.device).view(shape) < place
    found = ((outputs > own) | ((outputs == own) & lower)).sum(1)
    found[~outputs.reshape(len(outputs), -1).isfinite().all(1)] = outputs.shape[1]
    return found


def in_first(k: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Whether each target is among the first k classes: a function of outputs and targets that gives (b, places...)."""

    def found(outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.shape[1] <= k:
            raise InputError(
                f"metric='top{k}' is always 100 % of outputs with {outputs.shape[1]} classes: use metric='accuracy'"
            )
        return (ranks(outputs, targets) < k) & (targets >= 0)

    return found


def hits(k: int) -> Sums:
    """Hits among the first k, and judged places."""
    found = in_first(k)

    def sums(outputs: Tensor, targets: Tensor) -> Float64:
        return np.array([float(found(outputs, targets).sum()), float((targets >= 0).sum())])

    return sums


def nats(outputs: Tensor, targets: Tensor) -> Float64:
    """Minus ln of the probability (softmax of the outputs) of each judged target, summed, and how many there are."""
    rows, labels = outputs.movedim(1, -1).reshape(-1, outputs.shape[1]), targets.reshape(-1)
    each = F.cross_entropy(
        rows, torch.where(labels < 0, IGNORED, labels), ignore_index=IGNORED, reduction="none"
    )
    return np.array([float(each.double().sum()), float((labels >= 0).sum())])


def errors(power: int) -> Sums:
    """|output - target|^power, summed, and how many there are."""

    def sums(outputs: Tensor, targets: Tensor) -> Float64:
        each = (outputs.double() - targets.double()).abs() ** power
        return np.array([float(each.sum()), float(each.numel())])

    return sums


def residuals(outputs: Tensor, targets: Tensor) -> Float64:
    """The squared error of each output (of one example), summed over examples."""
    square = (outputs.double() - targets.double()).square().reshape(len(outputs), -1)
    found: Float64 = square.sum(0).cpu().numpy()
    return found


def class_counts(outputs: Tensor, targets: Tensor) -> Float64:
    """(3, classes): places of each class that were found, that were predicted, and that there are."""
    classes, judged = outputs.shape[1], targets >= 0
    meant, given = targets[judged], predictions(outputs)[judged]
    counts = (meant[given == meant], given[given >= 0], meant)
    return np.stack([torch.bincount(each, minlength=classes).double().cpu().numpy() for each in counts])


def mean(sums: Float64, targets: Tensor) -> float:
    """The first sum over the second."""
    return float(sums[0] / sums[1]) if sums[1] else math.nan


def root(sums: Float64, targets: Tensor) -> float:
    """The root of the mean."""
    return math.sqrt(mean(sums, targets))


def determination(sums: Float64, targets: Tensor) -> float:
    """R2 = 1 - squared error / squared deviation of the targets from their mean; the mean over outputs.

    Raises:
        InputError: if an output's target is the same in every example.
    """
    y = targets.double().reshape(len(targets), -1)
    spread = (y - y.mean(0)).square().sum(0).cpu().numpy()
    if not (spread > 0).all():
        raise InputError(
            f"metric='r2' does not exist where a target is the same in all {len(y)} examples: it is relative to the "
            "spread of the targets; use metric='rmse'"
        )
    return float(np.mean(1 - sums / spread))


def macro_f1(sums: Float64, targets: Tensor) -> float:
    """2 TP / (2 TP + FP + FN), the mean over the classes that were predicted or that there are."""
    found, given, meant = sums
    return _over_classes(2 * found, given + meant)


def mean_iou(sums: Float64, targets: Tensor) -> float:
    """TP / (TP + FP + FN) over all places, the mean over the classes that were predicted or that there are."""
    found, given, meant = sums
    return _over_classes(found, given + meant - found)


def in_order(parts: Sequence[Float64]) -> Float64:
    """The sums over all blocks, each added exactly."""
    stacked = np.stack(parts)
    flat = stacked.reshape(len(parts), -1)
    sums = [math.fsum(column) if np.isfinite(column).all() else float(column.sum()) for column in flat.T]
    return np.array(sums).reshape(stacked.shape[1:])


def _over_classes(parts: Float64, wholes: Float64) -> float:
    there = wholes > 0
    return float(np.mean(parts[there] / wholes[there])) if there.any() else math.nan
