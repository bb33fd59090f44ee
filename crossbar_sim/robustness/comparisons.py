"""Two models on the same chips: differences chip by chip, and p-values for many sigmas at once.

Chip i draws the same random numbers for every model, so what two models share cancels in the difference.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from crossbar_sim.errors import InputError
from crossbar_sim.robustness.statistics import Interval, mean_interval

_ROUNDING = 1e-12
"""Of the largest score: a spread of differences below it is that of floats, not of chips."""


@dataclass(frozen=True)
class Paired:
    """The mean difference of two models over the chips that both were measured on.

    Args:
        difference: mean over chips of a - b; positive where a is better.
        interval: Student t over chips; None for one chip.
        p_value: two-sided, of "the mean difference is 0"; None for one chip.
        chips: how many.
        adjusted: `p_value` after Holm's correction for the family it belongs to; None outside a family.
    """

    difference: float
    interval: Interval | None
    p_value: float | None
    chips: int
    adjusted: float | None = None

    @property
    def exact(self) -> bool:
        """Whether nothing is random: several chips with one score each, without a test, as at sigma 0."""
        found = self.interval
        return self.p_value is None and found is not None and found.low == found.high


def paired(a: ArrayLike, b: ArrayLike, level: float = 0.95, unseen: float = 0.0) -> Paired:
    """Compare two models on the same chips: Student's paired t test and its interval.

    With d = a - b, mean d-bar and standard deviation s over n chips: t = d-bar sqrt(n) / s with n - 1 degrees
    of freedom (Student, Biometrika 6:1, 1908). Two cases have no spread, and so no t. No difference on any
    chip: p = 1. The same difference on every chip: p = 2^(1 - n), that of the sign test, where t would claim 0.

    Args:
        a, b: (n,) scores, chip by chip in the same order.
        level: the interval's confidence, inside 0 .. 1.
        unseen: of drawn images, both models' rule of three at this level: added to the square of the half-width, and
            no p-value is below that at which such an interval would leave out 0.

    Raises:
        InputError: if the two are not of one length >= 1, or a score is not finite.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise InputError(
            f"scores of shapes {first.shape} and {second.shape}: a paired comparison takes one score of each model "
            f"per chip"
        )
    differences = first - second
    interval = mean_interval(differences, level, unseen)
    n = len(differences)
    mean = math.fsum(differences) / n
    if interval is None:
        return Paired(mean, None, None, n)
    std = math.sqrt(math.fsum((differences - mean) ** 2) / (n - 1))
    if std > _ROUNDING * max(np.abs(first).max(), np.abs(second).max()):
        p = 2 * float(stdtr(n - 1, -abs(mean) * math.sqrt(n) / std))
    else:
        p = 2.0 ** (1 - n) if mean else 1.0
    return Paired(mean, interval, max(p, _unseen_p(mean, std, n, level, unseen)), n)


def _unseen_p(mean: float, std: float, n: int, level: float, unseen: float) -> float:
    """1 - level of the interval whose end is 0, the rule of three being in it; by bisection of its logarithm."""
    if not (unseen and mean):
        return 0.0
    rare = unseen / math.log1p(-level) ** 2
    low, high = -60.0, -1e-9
    for _ in range(60):
        middle = (low + high) / 2
        t = float(stdtrit(n - 1, math.exp(middle) / 2))
        reaches = t * t * std * std / n + rare * middle * middle > mean * mean
        low, high = (middle, high) if reaches else (low, middle)
    return math.exp(high)


def holm(p_values: Iterable[float | None]) -> tuple[float | None, ...]:
    """Adjusted p-values that hold for a whole family (Holm, Scand. J. Statistics 6:65, 1979).

    The i-th smallest of m becomes max over j <= i of (m - j + 1) p_(j), at most 1: calling those below 0.05
    different is wrong anywhere in the family with probability at most 0.05, however the tests depend on each
    other. `None` stays `None` and does not count in m.

    Raises:
        InputError: if a p-value is outside 0 .. 1.
    """
    values = list(p_values)
    for p in values:
        if p is not None and not 0 <= p <= 1:
            raise InputError(f"p-value {p!r}: a probability must be in 0 .. 1")
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    found: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        found[place] = largest
    return tuple(found)


def adjusted(family: Sequence[Paired]) -> tuple[Paired, ...]:
    """The same comparisons with Holm's correction over all of them."""
    corrected = holm(one.p_value for one in family)
    return tuple(replace(one, adjusted=p) for one, p in zip(family, corrected, strict=True))
