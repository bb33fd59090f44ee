"""Calibration inside training: each chip's own statistics in every gradient step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.detection import detects
from crossbar_sim.nn.evaluate import inputs_for
from crossbar_sim.nn.networks.fastconv import whiten
from crossbar_sim.nn.standardised import Standardisation, norms, standardisation_of, standardise
from crossbar_sim.nn.training.settings import Step
from crossbar_sim.robustness.calibration.norm_statistics import estimated

EXAMPLES = 2000
"""Training examples of which the clean network's statistics are estimated after each epoch."""


def calibrated(model: nn.Module, x: Batch) -> Standardisation:
    """Change a network for calibrated training, in place; see `standardise`. One that has been changed stays as it is.

    Args:
        model: fresh, or with weights to begin with.
        x: the training examples.

    Raises:
        InputError: as `standardise`, and if it is a detector.
    """
    if detects(model):
        raise InputError("calibrated is for classifiers: a detector's read-out is several layers")
    found = standardisation_of(model)
    if found is not None:
        return found
    whiten(model, x)
    return standardise(model, inputs_for(model.eval(), _some(x, 500))[0])


def estimate_clean(model: nn.Module, x: Batch) -> None:
    """Set the running statistics to those of the network without drift: they are what it is validated and saved with.

    Args:
        model: calibrated.
        x: the training examples, as the model takes them.
    """
    training = model.training
    found = estimated(model.eval(), _some(x, EXAMPLES))
    model.train(training)
    with torch.no_grad():
        for buffer in model.buffers():
            if id(buffer) in found:
                buffer.copy_(found[id(buffer)])


def _some(x: Batch, n: int) -> Batch:
    """At most n examples, evenly spaced."""
    return x[torch.arange(min(n, len(x))) * len(x) // min(n, len(x))] if len(x) > n else x


def check_shares(name: str, chips: int, batch: int) -> None:
    """Refuse a step that leaves a chip a single example.

    Raises:
        InputError: naming the setting.
    """
    if batch < 2 * chips:
        raise InputError(
            f"calibrated: {name}={chips} with batch={batch}: every chip needs two examples at least for statistics of "
            "its own"
        )


class OwnStatistics:
    """A `Step` on chips, each of which standardises by the statistics of its own part of the batch.

    Args:
        step: which runs the network in training mode on each chip; running statistics stay as they are.
        chips: of a step.
    """

    def __init__(self, step: Step, chips: int) -> None:
        self.step, self.chips = step, chips

    def __call__(self, model: nn.Module, x: Batch, y: Tensor, share: float) -> Tensor:
        """See `Step`.

        Raises:
            InputError: if a chip gets a single example.
        """
        if len(x) // self.chips < 2:
            raise InputError(
                f"calibrated: {len(x)} examples in a step for {self.chips} chips; each chip needs two or more for "
                "statistics of its own: lower chips, or raise batch"
            )
        with _untracked(norms(model)):
            return self.step(model, x, y, share)


@contextmanager
def _untracked(found: list[_BatchNorm]) -> Iterator[None]:
    """Context in which running statistics stay as they are in training mode too."""
    before = [norm.momentum for norm in found]
    try:
        for norm in found:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(found, before, strict=True):
            norm.momentum = momentum


def standardised_by_chip(x: Tensor, norm: nn.BatchNorm1d, weights: Tensor) -> Tensor:
    """Normalise the features (chips, b, features) of each chip by its own statistics.

    Args:
        x: of all chips.
        norm: whose scale and shift all chips share.
        weights: (chips, 1, b), of the examples; they add up to 1 for each chip, and are 0 for those that only fill up.
    """
    centred = x - torch.bmm(weights, x)
    scale = torch.rsqrt(torch.bmm(weights, centred.square()) + norm.eps)
    if norm.weight is None:
        return centred * scale
    return centred * (scale * norm.weight) + norm.bias
