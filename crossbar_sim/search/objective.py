"""What a search is after: the mean score over chips of a design, on validation examples, and how sure it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.overrides import alike, at_sigma
from crossbar_sim.data import Split
from crossbar_sim.errors import InputError, held
from crossbar_sim.nn.evaluate import BLOCK
from crossbar_sim.nn.seeding import permutation
from crossbar_sim.rng import Key
from crossbar_sim.robustness.detection_score import reference_of
from crossbar_sim.robustness.evaluator import Job, Subject
from crossbar_sim.robustness.statistics import Interval, mean_interval


@dataclass(frozen=True)
class Measured:
    """The scores of chips."""

    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over chips: the Monte Carlo estimate of Eq. 4 of the paper."""
        return sum(self.scores) / len(self.scores)

    @property
    def variance(self) -> float:
        """Of the mean: the variance between chips over their number; 0 where all chips are one."""
        mean, n = self.mean, len(self.scores)
        return sum((score - mean) ** 2 for score in self.scores) / (n - 1) / n if n > 1 else 0.0

    @property
    def interval(self) -> Interval | None:
        """95 % Student-t interval of the mean; None for one chip."""
        return mean_interval(self.scores)


@dataclass(frozen=True, eq=False)
class DriftedScore:
    """The objective. All trials are measured on the same chips and examples.

    What the chips have in common for all networks then cancels between trials, which makes the variance that the
    surrogate is told an upper bound.

    Args:
        x, y: the examples: (n, ...) and labels (n,).
        hardware: the design, whose drift law takes sigma.
        sigma: of the drift.
        chips: how many.
        seed: names the chips: 0 .. chips - 1 of this seed, which is no user's.
    """

    x: Tensor
    y: Tensor
    hardware: Hardware
    sigma: float
    chips: int
    seed: int

    @classmethod
    def of(
        cls, split: Split, hardware: Hardware, sigma: float, chips: int, images: int | None, key: Key
    ) -> "DriftedScore":
        """On `images` examples of a split, drawn by the key, or all (None).

        Raises:
            InputError: if there are no labels, a number is impossible, or the design has no such sigma.
        """
        if split.y is None:
            raise InputError("the validation examples have no labels: the search needs y")
        for what, number, least in (("chips", chips, 2), ("images", images, 1)):
            if number is None:
                continue
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise InputError(f"{what}={number!r}: an integer >= {least} is needed")
        at_sigma(hardware, sigma)
        x, y = split.x, split.y
        if images is not None and images < len(x):
            chosen = permutation(len(x), key.fold("images"))[:images].sort().values
            x, y = x[chosen], y[chosen]
        return cls(x, y, hardware, sigma, chips, key.fold("chips").integer())

    def measure(self, model: nn.Module) -> Measured:
        """Score a clean model, in evaluation mode, on the chips.

        Raises:
            InputError: if the model does not take the examples, or its outputs are not finite.
        """
        reference = reference_of(model, self.x, self.y, BLOCK)
        subject = Subject(model, self.hardware, reference, reference.metric(None), self.seed)
        with held():  # of every trial
            subject.look(at_sigma(self.hardware, self.sigma))
        if alike(at_sigma(self.hardware, self.sigma)):
            (only,) = subject.evaluator.measure(Job(self.sigma, (0,)))
            return Measured((only.value,))
        trials = subject.evaluator.measure(Job(self.sigma, tuple(range(self.chips))))
        return Measured(tuple(trial.value for trial in trials))


def as_text(scores: Sequence[float]) -> str:
    """`93.21 % +- 0.40 (20 chips)`."""
    found = Measured(tuple(scores))
    interval = found.interval
    sure = "" if interval is None else f" +- {100 * interval.half_width:.2f}"
    return f"{100 * found.mean:.2f} %{sure}"
