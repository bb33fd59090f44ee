"""How well one chip does: accuracy against labels, agreement with the clean model, error of the outputs."""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.detection_task import detects
from crossbar_sim.nn.evaluate import BLOCK, check_alone, check_repeats, few_of, outputs, several

METRICS = ("accuracy", "agreement", "output_error")
"""What a chip can be judged by, the fields of `Score`."""

DETECTION_METRICS = ("map", "map50")
"""What a chip of a detector is judged by, fields of `detection_score.DetectionScore`."""


@dataclass(frozen=True)
class Score:
    """The scores of one chip, or of the clean model.

    Args:
        accuracy: share of examples whose largest output is the label's; None without labels.
        agreement: share of examples whose largest output is the clean model's; None for one output or less.
        output_error: |y - y_clean| / |y_clean|, Euclidean over all outputs; None where it is not finite.
        broken: share of examples with an output that is not finite; they count as wrong.
    """

    accuracy: float | None
    agreement: float | None
    output_error: float | None
    broken: float = 0.0

    def value(self, metric: str) -> float:
        """The score that statistics are about, more being better: an output error counts with a minus.

        NaN where the score does not exist.
        """
        value: float | None = getattr(self, metric)
        if value is None:
            return math.nan
        return -value if metric == "output_error" else value


@dataclass(frozen=True, eq=False)
class Reference:
    """The examples, and what the clean model makes of them: computed once, compared with on every chip.

    Args:
        x: (n, ...) inputs; y: (n,) labels or None.
        clean: the clean model's outputs, (n, ...).
        block, fixed: see `nn.evaluate.outputs`.
        several: how many outputs the model returns where the first of them is judged for being the first, else 1.
        few: the first inputs, and the clean model's outputs for them as `few_outputs` gives them; None: not known.
        mixed: by how much the outputs for an example depend on the others of its batch, relative to the largest
            output; 0.0: no more than by rounding.
    """

    x: Tensor
    y: Tensor | None
    clean: Tensor
    block: int = BLOCK
    fixed: int | None = None
    several: int = 1
    few: tuple[Tensor, Tensor] | None = None
    mixed: float = 0.0

    @classmethod
    def of(
        cls, model: nn.Module, x: Tensor, y: Tensor | None, block: int = BLOCK, fixed: int | None = None
    ) -> "Reference":
        """Run the clean model on the examples.

        Raises:
            InputError: if the model cannot take them, returns too few outputs for the labels, or outputs that
                are not finite, draws random numbers, or normalises by the statistics of a batch.
        """
        if detects(model):
            raise InputError("this command judges classifiers: a detector is judged by crossbar-sim sweep")
        counts: list[int] = []
        hook = model.register_forward_hook(lambda _, __, answer: counts.append(several(answer)))
        try:
            clean = torch.cat([t.cpu() for t in outputs(model, x, block, fixed)])
        finally:
            hook.remove()
        few = check_repeats(model, x, fixed)
        mixed = check_alone(model, few, clean)
        if not clean.isfinite().all():
            raise InputError(
                "the clean model's outputs are not finite on these inputs: nothing to compare with"
            )
        if y is not None:
            if clean.dim() != 2 or clean.shape[1] < 2:
                raise InputError(
                    f"labels need one output per class, but the model's outputs have shape "
                    f"{tuple(clean.shape)}: give data without y to compare outputs instead"
                )
            if int(y.max()) >= clean.shape[1]:
                raise InputError(
                    f"labels go up to {int(y.max())} but the model has {clean.shape[1]} outputs: "
                    f"is this the data it was trained on?"
                )
        seen = (few_of(x, fixed), few)
        return cls(x, y, clean, block, fixed, max(counts, default=1), few=seen, mixed=mixed)

    def part(self, indices: Tensor) -> "Reference":
        """The same for some of the examples."""
        y = None if self.y is None else self.y[indices]
        return replace(self, x=self.x[indices], y=y, clean=self.clean[indices])

    @property
    def classes(self) -> bool:
        """Whether outputs are scores of classes, of which the largest counts."""
        return self.clean.dim() >= 2 and self.clean.shape[1] >= 2

    @functools.cached_property
    def predicted(self) -> Tensor:
        """The clean model's classes, (n,) or (n, places...)."""
        return self.clean.argmax(1)

    @functools.cached_property
    def norm(self) -> float:
        """Sum of the squares of all clean outputs."""
        # by NumPy, which never splits a sum over threads: the bits must not depend on their number
        return float(np.sum(np.square(self.clean.numpy(), dtype=np.float64)))

    @property
    def _places(self) -> int:
        """Classes per example: 1, or the pixels of a segmentation."""
        return max(self.predicted[:1].numel(), 1)

    def metric(self, asked: str | None) -> str:
        """The metric of a report: the one asked for, else accuracy, agreement or output error by what there is.

        Raises:
            InputError: if the one asked for is unknown, or needs labels or classes that are not there.
        """
        if asked is None:
            return "accuracy" if self.y is not None else "agreement" if self.classes else "output_error"
        if asked not in METRICS:
            raise InputError(f"metric={asked!r} must be one of {', '.join(METRICS)}")
        if asked == "accuracy" and self.y is None:
            raise InputError("metric='accuracy' needs labels: give data with y")
        if asked == "agreement" and not self.classes:
            raise InputError(
                f"metric='agreement' compares largest outputs, but there is one output: {tuple(self.clean.shape)}"
            )
        return asked

    def check_metric(self, metric: str) -> None:
        """Refuse an output error where there is nothing that it could be relative to.

        Raises:
            InputError: if all outputs of the clean model are 0.
        """
        if metric == "output_error" and self.norm == 0:
            raise InputError(
                "the clean model's outputs are all 0 on these inputs, and an output error is relative to them: give a "
                "trained model (a last layer that starts from zero gives 0 until it is trained)"
            )

    def clean_score(self) -> Score:
        """The clean model's own score."""
        accuracy = None if self.y is None else _share(self.clean.argmax(1) == self.y)
        return Score(accuracy, 1.0 if self.classes else None, 0.0)

    def score(self, model: nn.Module) -> Score:
        """The score of a programmed model.

        Sums are kept per block and added in the order of blocks: the same for any number of threads.
        """

        def reduce(y: Tensor, part: slice) -> tuple[float, float, float, float]:
            out, right, agree = y.cpu(), 0.0, 0.0
            square = float((out - self.clean[part]).square_().sum(dtype=torch.float64))
            broken = None if math.isfinite(square) else ~out.reshape(len(out), -1).isfinite().all(1)
            if self.classes:
                predicted = out.argmax(1)
                if broken is not None:
                    predicted[broken] = -1  # the largest of outputs that are no numbers is nobody's class
                agree = float(torch.count_nonzero(predicted == self.predicted[part])) / self._places
                if self.y is not None:
                    right = float(torch.count_nonzero(predicted == self.y[part]))
            return right, agree, square, 0.0 if broken is None else float(torch.count_nonzero(broken))

        rows = outputs(model, self.x, self.block, self.fixed, reduce)
        right, agree, square, broken = (math.fsum(column) for column in zip(*rows, strict=True))
        error = math.sqrt(square / self.norm) if self.norm > 0 and math.isfinite(square) else None
        return Score(
            accuracy=None if self.y is None else right / len(self.x),
            agreement=agree / len(self.x) if self.classes else None,
            output_error=error,
            broken=broken / len(self.x),
        )

    def right(self, model: nn.Module, images: Tensor, metric: str) -> NDArray[np.float64]:
        """Whether each of some images is right, for accuracy or agreement: 0 or 1, or a share of its places.

        Args:
            model: programmed.
            images: (m,) int64, which.
            metric: "accuracy" or "agreement".

        Returns:
            (m,); an output that is not finite is wrong.
        """
        y = torch.cat([t.cpu() for t in outputs(model, self.x[images], self.block, self.fixed)])
        meant = self.y if metric == "accuracy" else self.predicted
        assert meant is not None
        found: NDArray[np.float64] = hits(y, meant[images]).reshape(len(y), -1).double().mean(1).numpy()
        return found


def hits(y: Tensor, meant: Tensor) -> Tensor:
    """Whether the largest of each example's outputs is the one meant: (b, places...) bool from (b, classes, places...).

    False where an example has an output that is not finite.
    """
    found = y.argmax(1) == meant
    if not math.isfinite(float(y.sum())):  # one pass; a sum may overflow where no output does
        found[~y.reshape(len(y), -1).isfinite().all(1)] = False
    return found


def finite_score(score: Score, metric: str, chip: int) -> Score:
    """The score, if there is one.

    Raises:
        InputError: naming the chip, if there is none.
    """
    if math.isnan(score.value(metric)):
        raise InputError(
            f"chip {chip}: the outputs are not finite, so an output error does not exist: lower sigma"
        )
    return score


def _share(hits: Tensor) -> float:
    return float(hits.sum()) / len(hits)


def collect(scores: Iterable[Score], name: str) -> list[float]:
    """One field of every score; empty if any chip lacks it."""
    values = [getattr(score, name) for score in scores]
    return [] if any(value is None for value in values) else values
