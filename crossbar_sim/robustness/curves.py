"""Curves of score over sigma in one number: the area under them, and where they fall below a threshold.

Chips are the same at every sigma, so scores of a chip depend on each other along its curve. Both numbers
are therefore made per chip first, and intervals are over chips.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from crossbar_sim.errors import InputError
from crossbar_sim.robustness.statistics import LARGEST, Interval, mean_interval

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Crossing:
    """The sigma at which the mean score falls below a threshold, and an interval for it.

    Args:
        threshold: the score.
        sigma: where the mean falls below it; None if that is not `where == "inside"` the sigmas.
        where: "below": it is below at the first sigma already; "beyond": it never falls below.
        low, high: the interval; None for an end outside the sigmas.
        known: whether there is an interval; False for one chip, and then `low` and `high` are None too.
        range: the first and the last sigma.
        level: the interval's confidence.
    """

    threshold: float
    sigma: float | None
    where: Literal["below", "inside", "beyond"]
    low: float | None
    high: float | None
    known: bool
    range: tuple[float, float]
    level: float

    def __str__(self) -> str:
        first, last = (f"{end:g}" for end in self.range)
        outside = {"below": f"below {first}", "beyond": f"beyond {last}"}
        text = outside[self.where] if self.sigma is None else f"{self.sigma:.3g}"
        if not self.known:
            return text
        low = outside["below"] if self.low is None else f"{self.low:.3g}"
        high = outside["beyond"] if self.high is None else f"{self.high:.3g}"
        return f"{text} ({low} to {high})"


def area(
    sigmas: ArrayLike, scores: ArrayLike, level: float = 0.95, unseen: ArrayLike = 0.0
) -> Interval | None:
    """Area under the robustness curve, divided by the range of sigma: a mean score over that range.

    Trapezoids per chip, Student t over chips. The trapezoids' own error depends on the sigmas, not on the
    chips, and is not in the interval: compare areas over the same sigmas only.

    Args:
        sigmas: (k,), rising, k >= 2.
        scores: (n, k): n chips, the same at every sigma.
        level: the confidence, inside 0 .. 1.
        unseen: (k,): of drawn images, what the rule of three adds to the square of a half-width at each sigma; here
            the largest is.

    Returns:
        None for one chip.

    Raises:
        InputError: if shapes do not fit, sigmas do not rise, or a number is not finite.
    """
    x, y = _checked(sigmas, scores)
    widths = np.diff(x) / (x[-1] - x[0])
    most = float(np.max(np.asarray(unseen, np.float64)))
    return mean_interval(((y[:, 1:] + y[:, :-1]) / 2 * widths).sum(axis=1), level, most)


def crossing(
    sigmas: ArrayLike, scores: ArrayLike, threshold: float, level: float = 0.95, unseen: ArrayLike = 0.0
) -> Crossing:
    """The sigma at which the mean score first falls below `threshold`.

    Every chip's curve is linear between sigmas, and so is the mean. The interval inverts the t interval of the
    mean: it goes from the first sigma at which that interval reaches down to the threshold, to the first at
    which all of it is below. On a falling curve these are the sigmas whose interval contains the threshold
    (Fieller, JRSS B 16:175, 1954: between two sigmas mean and variance are polynomials, and the ends roots).

    Args:
        sigmas: (k,), rising, k >= 2.
        scores: (n, k): n chips, the same at every sigma.
        threshold: a score.
        level: the confidence, inside 0 .. 1.
        unseen: (k,): of drawn images, what the rule of three adds to the square of the mean's half-width at each
            sigma; linear between them.

    Raises:
        InputError: if shapes do not fit, sigmas do not rise, or a number is not finite.
    """
    x, y = _checked(sigmas, scores)
    if not math.isfinite(threshold):
        raise InputError(f"threshold={threshold!r}: a threshold is a finite score")
    if not 0 < level < 1:
        raise InputError(f"level={level!r}: a confidence level lies between 0 and 1, e.g. 0.95")
    n = len(y)
    mean = y.mean(axis=0) - threshold
    ends = (float(x[0]), float(x[-1]))
    sigma = _first_below(x, mean, np.zeros((len(x) - 1, 3)), 0.0)
    where: Literal["below", "inside", "beyond"] = "inside" if sigma is not None else "beyond"
    if mean[0] < 0:
        where, sigma = "below", None
    if n == 1:
        return Crossing(float(threshold), sigma, where, None, None, False, ends, level)
    spread = _variance_between(y) * (float(stdtrit(n - 1, (1 - level) / 2)) ** 2 / n)
    rare = np.broadcast_to(np.asarray(unseen, np.float64), x.shape)
    spread[:, 0] += rare[:-1]
    spread[:, 1] += np.diff(rare)
    low = _first_below(x, mean, spread, -1.0)
    high = _first_below(x, mean, spread, +1.0)
    # an interval that reaches past the sigmas is open there; one that lies outside ends at their edge
    reaches_down = mean[0] <= math.sqrt(spread[0, 0])
    if low is None:
        low = ends[1]
    return Crossing(float(threshold), sigma, where, None if reaches_down else low, high, True, ends, level)


def _variance_between(y: Float64) -> Float64:
    """(k - 1, 3) coefficients of the variance over chips at y_j + u (y_(j+1) - y_j), for powers 0 .. 2 of u."""
    centred = y - y.mean(axis=0)
    start, step = centred[:, :-1], np.diff(centred, axis=1)
    sums = [(start * start).sum(axis=0), 2 * (start * step).sum(axis=0), (step * step).sum(axis=0)]
    return np.stack(sums, axis=1) / (len(y) - 1)


def _first_below(x: Float64, mean: Float64, spread: Float64, sign: float) -> float | None:
    """The first place at which mean + sign sqrt(spread) goes below 0, or None.

    For sign = -1 that is the lower limit of the mean, for +1 the upper one, for 0 the mean itself.
    """
    for j in range(len(x) - 1):
        start, step = mean[j], mean[j + 1] - mean[j]
        c, b, a = start * start - spread[j, 0], 2 * start * step - spread[j, 1], step * step - spread[j, 2]
        # the mean's own root too: without a spread it is double, and rounding may hide it
        roots = [*_roots(a, b, c), *([-start / step] if step else [])]
        inner = sorted(u for u in roots if 0 < u < 1)
        # between neighbouring places the limit has one sign: that of the middle
        places = [0.0, *inner, 1.0]
        for left, right in itertools.pairwise(places):
            u = (left + right) / 2
            variance = spread[j, 0] + u * (spread[j, 1] + u * spread[j, 2])
            if start + u * step + sign * math.sqrt(max(variance, 0.0)) < 0:
                return float(x[j] + left * (x[j + 1] - x[j]))
    return None


def _roots(a: float, b: float, c: float) -> list[float]:
    """Real roots of a u^2 + b u + c, by the form that does not subtract close numbers."""
    inside = b * b - 4 * a * c
    if inside < 0:
        return []
    q = -(b + math.copysign(math.sqrt(inside), b)) / 2
    return [float(over / under) for over, under in ((q, a), (c, q)) if under != 0]


def _checked(sigmas: ArrayLike, scores: ArrayLike) -> tuple[Float64, Float64]:
    x, y = np.asarray(sigmas, np.float64), np.asarray(scores, np.float64)
    if x.ndim != 1 or len(x) < 2 or y.ndim != 2 or y.shape[0] < 1 or y.shape[1] != len(x):
        raise InputError(
            f"sigmas of shape {x.shape} and scores of shape {y.shape}: a curve needs k >= 2 sigmas and "
            f"(chips, k) scores"
        )
    if not (np.isfinite(x).all() and (np.diff(x) > 0).all()):
        raise InputError(f"sigmas {x.tolist()}: the sigmas of a curve are finite and rise")
    if not np.isfinite(y).all():
        raise InputError(
            f"{int((~np.isfinite(y)).sum())} of {y.size} scores are not finite: scores are finite"
        )
    if np.abs(y).max() > LARGEST:
        raise InputError(f"a score is {np.abs(y).max():.3g}: nothing can be computed beyond {LARGEST:g}")
    return x, y
