"""From the scores of chips to numbers with error bars.

The random unit is the chip: intervals are over chips, not over images. `scipy.special` has the
functions that are needed; `scipy.stats` would cost a second at every start.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr, ndtri, stdtr, stdtrit

from crossbar_sim.errors import InputError
from crossbar_sim.validate import is_whole

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

LARGEST = 1e150
"""Of a score: squares of larger ones are beyond floats."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    An interval that does not exist (one chip tells nothing about the spread) is `None` in place of
    an `Interval`, and null in JSON: never NaN, never of width zero.
    """

    estimate: float
    low: float
    high: float
    level: float

    @property
    def half_width(self) -> float:
        """Half the distance from `low` to `high`; "estimate +- half_width" for a t interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Summary:
    """Scores of n chips in numbers. The fields are those of a report's JSON.

    Args:
        mean: over chips.
        ci95: 95 % Student-t interval of the mean (low, high); `None` for one chip. It is not cut
            to 0 .. 1 for scores that are shares: cutting would hide that few or very unequal chips
            make the normal approximation poor.
        std: between chips, with n - 1; `None` for one chip.
        min, max: worst and best chip, for a score of which more is better.
        median: the 0.5 quantile.
        quantiles: by their level as text ("0.05"), see `quantiles`.
        per_chip: every score, in the order given.
    """

    mean: float
    ci95: tuple[float, float] | None
    std: float | None
    min: float
    max: float
    median: float
    quantiles: dict[str, float]
    per_chip: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dicts, ready for JSON."""
        return {**asdict(self), "ci95": _listed(self.ci95), "per_chip": list(self.per_chip)}

    def mapped(self, shown: Callable[[float], float]) -> "Summary":
        """The summary in another scale, such as exp of one of logarithms: its mean is then the geometric one.

        Args:
            shown: monotone. The standard deviation, which has no such form, is left out.
        """
        low, high = sorted(map(shown, (self.min, self.max)))
        ends = None if self.ci95 is None else tuple(sorted(map(shown, self.ci95)))
        levels = list(self.quantiles)
        if shown(1.0) < shown(0.0):  # the scale runs the other way
            levels = [f"{1 - float(level):g}" for level in levels]
        found = {level: shown(value) for level, value in zip(levels, self.quantiles.values(), strict=True)}
        return Summary(
            shown(self.mean), None if ends is None else (ends[0], ends[1]), None, low, high, shown(self.median),
            dict(sorted(found.items(), key=lambda pair: float(pair[0]))), tuple(map(shown, self.per_chip)),
        )  # fmt: skip


@dataclass(frozen=True)
class Yield:
    """The share of chips that reach a threshold, with its 95 % Wilson interval (low, high)."""

    threshold: float
    value: float
    ci95: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return {**asdict(self), "ci95": _listed(self.ci95)}


def mean_interval(values: Iterable[float], level: float = 0.95, unseen: float = 0.0) -> Interval | None:
    """Student-t interval of the mean: mean +- t(n - 1) s / sqrt(n), with s over n - 1.

    Exact for normal scores; for others it is right in the limit of many chips.

    Args:
        values: one score per chip.
        level: the confidence, inside 0 .. 1.
        unseen: added to the square of the half-width: of drawn images, the rule of three at this level.

    Returns:
        `None` for a single value, about whose spread nothing is known.

    Raises:
        InputError: if there is no value, one is not finite or above 1e150, or the level is outside 0 .. 1.
    """
    scores = _checked(values)
    _tail(level)  # refuses an impossible level for a single value too
    mean, std = _mean_std(scores)
    if std is None:
        return None
    half = half_width(std, len(scores), level) / math.sqrt(len(scores))
    if unseen:
        half = math.sqrt(half * half + unseen)
    return Interval(mean, mean - half, mean + half, level)


def half_width(error: float, count: int, level: float = 0.95) -> float:
    """Half-width of the mean's interval: t(n - 1) times the standard error of `count` scores (at least two)."""
    return -float(stdtrit(count - 1, _tail(level))) * error


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson, JASA 22:209, 1927).

    centre = (p + z^2 / 2n) / d and half = z sqrt(p (1 - p) / n + z^2 / 4n^2) / d, d = 1 + z^2 / n.
    It stays inside 0 .. 1 and has a width also at 0 and n successes. Its centre is not p.

    Args:
        successes: how many of the n, 0 .. n.
        n: at least 1.
        level: the confidence, inside 0 .. 1.

    Raises:
        InputError: if a number is outside its range.
    """
    for what, number in (("successes", successes), ("n", n)):
        if not is_whole(number):
            raise InputError(f"{what}={number!r}: a count is an integer")
    if n < 1 or not 0 <= successes <= n:
        raise InputError(f"successes={successes}, n={n}: needs n >= 1 and successes in 0 .. n")
    z = -float(ndtri(_tail(level)))
    p = int(successes) / int(n)
    stretch = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / stretch
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / stretch
    # At the ends the formula gives 0 and 1 up to rounding; there the value is set, not rounded.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(p, low, high, level)


def quantiles(values: Iterable[float], levels: Sequence[float] = QUANTILES) -> dict[str, float]:
    """Sample quantiles, interpolated linearly (type 7 of Hyndman and Fan, 1996; numpy's default).

    Returns:
        level as text -> quantile, e.g. {"0.05": 0.81, ...}: the keys that JSON would make of it.

    Raises:
        InputError: if there is no value, one is not finite, or a level is outside 0 .. 1.
    """
    scores = _checked(values)
    for level in levels:
        if not 0 <= level <= 1:
            raise InputError(f"quantile {level!r}: a quantile's level must be in 0 .. 1")
    found = np.quantile(scores, np.asarray(levels, dtype=np.float64))
    return {f"{level:g}": float(value) for level, value in zip(levels, found, strict=True)}


def summarise(values: Iterable[float]) -> Summary:
    """The summary of one score per chip.

    Raises:
        InputError: if there is no value or one is not finite.
    """
    scores = _checked(values)
    mean, std = _mean_std(scores)
    interval = mean_interval(scores)
    return Summary(
        mean=mean,
        ci95=None if interval is None else (interval.low, interval.high),
        std=std,
        min=min(scores),
        max=max(scores),
        median=float(np.median(scores)),
        quantiles=quantiles(scores),
        per_chip=tuple(scores),
    )


def yield_at(values: Iterable[float], threshold: float) -> Yield:
    """The share of chips whose score is >= threshold.

    Raises:
        InputError: if there is no value, or a value or the threshold is not finite.
    """
    scores = _checked(values)
    if not math.isfinite(threshold):
        raise InputError(f"threshold={threshold!r}: a threshold is a finite score")
    interval = wilson(sum(score >= threshold for score in scores), len(scores))
    return Yield(float(threshold), interval.estimate, (interval.low, interval.high))


@dataclass(frozen=True)
class Percentile:
    """The score below which so many per cent of the chips are, of scores of which more is better.

    Args:
        percent: 5 for the 5th percentile.
        value: the sample quantile, see `quantiles`.
        ci95: (low, high) of the interval by order statistics; an end is `None` where there are too few chips for it.
        needed: the number of chips from which on both ends are there.
    """

    percent: float
    value: float
    ci95: tuple[float | None, float | None]
    needed: int

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return {**asdict(self), "ci95": list(self.ci95)}


def check_percent(percent: object) -> float:
    """Refuse what is not a percentile.

    Raises:
        InputError: unless it is a number between 0 and 100.
    """
    if not isinstance(percent, int | float) or isinstance(percent, bool) or not 0 < percent < 100:
        raise InputError(f"percentile={percent!r}: expected a number between 0 and 100, such as 5")
    return float(percent)


def percentile(values: Iterable[float], percent: float) -> Percentile:
    """A percentile of the scores of chips, with a 95 % interval that holds for every distribution of scores.

    With N the number of n scores below the percentile, binomial (n, p), the ends are the order statistics l and u with
    P(N < l) <= 2.5 % and P(N >= u) <= 2.5 % (David and Nagaraja, Order Statistics, 3rd ed., 2003, section 7.1). The
    coverage is 95 % or more. For p = 5 % the lower end needs 72 chips, since (1 - p)^71 > 2.5 %.

    Args:
        values: one score per chip.
        percent: 5 for the 5th percentile.

    Raises:
        InputError: if there is no value, one is not finite, or the percentile is outside 0 .. 100.

    >>> percentile(range(100), 5)
    Percentile(percent=5.0, value=4.95, ci95=(0.0, 10.0), needed=72)
    """
    p = check_percent(percent) / 100
    scores = sorted(_checked(values))
    n, tail = len(scores), _tail(0.95)
    # at most k of n scores are below the percentile with probability below[k]
    below = bdtr(np.arange(n), n, p)
    low = int(np.searchsorted(below, tail, "right"))  # how many of these are at most 2.5 %
    high = int(np.searchsorted(below, 1 - tail, "left"))
    ends = scores[low - 1] if low else None, scores[high] if high < n else None
    needed = math.ceil(math.log(tail) / math.log(max(p, 1 - p)))
    return Percentile(float(percent), quantiles(scores, (p,))[f"{p:g}"], ends, needed)


FALSE_ALARM = 0.001
"""Probability of a caution about normal scores, at most."""
FEW, SEVERAL_FROM, SKEW_FROM = 4, 6, 8
"""Scores from which a caution can be given, several far ones are looked for, and skewness is tested."""
MATTERS, HARMLESS = 0.001, 0.1
"""The half-width, and the skewness^2 / n, that matter."""


def tail_caution(values: Iterable[float], relative: bool = False) -> str | None:
    """A sentence where the scores show that their distribution has a long tail: then t intervals are not exact.

    Shown by any of three tests: D'Agostino's of skewness (Biometrika 57, 679, 1970), Grubbs' of the farthest score
    (Technometrics 11, 1, 1969), and the distance of the farthest score from the median in robust spreads, with limits
    found by simulation. Normal scores have a caution in at most `FALSE_ALARM` of the samples. The coverage of a t
    interval falls with skewness^2 / n (Johnson, JASA 73, 536, 1978): below `HARMLESS` it is within some 2 points of its
    level, and nothing is said; nor of intervals narrower than +- 0.1 points. A tail of which no chip is in the sample
    cannot be seen.

    Args:
        values: one score per chip.
        relative: for scores that are no shares the half-width that matters is a thousandth of the mean.

    Raises:
        InputError: if there is no value or one is not finite.

    >>> tail_caution([0.9, 0.91, 0.89, 0.9, 0.92, 0.9, 0.88, 0.91, 0.9, 0.1])[:48]
    '1 of 10 chips lies far from the others (at 0.1 w'
    """
    scores = _checked(values)
    n = len(scores)
    mean, std = _mean_std(scores)
    least = MATTERS * abs(mean) if relative else MATTERS
    if n < FEW or std is None or half_width(std, n) / math.sqrt(n) < least:
        return None
    middle = float(np.median(scores))
    farthest = max(scores, key=lambda score: abs(score - mean))
    # Grubbs' statistic, as the t statistic of the farthest score against the others, times n for the choice of it
    g = abs(farthest - mean) / std
    rest = (n - 1) ** 2 - n * g * g
    t = math.inf if rest <= 0 else math.sqrt(n * (n - 2) * g * g / rest)
    outlying = 2 * n * float(stdtr(n - 2, -t)) < FALSE_ALARM / 2
    skewness = _skewness(scores, mean)
    skewed = n >= SKEW_FROM and abs(_skewness_z(skewness, n)) > -float(ndtri(FALSE_ALARM / 4))
    # Several far scores hide each other from both tests, but not from the median
    spread = 1.4826 * float(np.median([abs(score - middle) for score in scores]))
    several = n >= SEVERAL_FROM and abs(farthest - middle) > (5.3 + 1400 / n**2) * spread > 0
    if not (outlying or skewed or several) or skewness**2 < HARMLESS * n:
        return None
    # of a few scores the robust spread is uncertain: half of the way to the farthest counts as far
    limit = max(5 * spread, abs(farthest - middle) / 2)
    far = max(sum(abs(score - middle) > limit for score in scores), 1)
    return (
        f"{far} of {n} chips {'lie' if far > 1 else 'lies'} far from the others (at {farthest:.3g} where the median is "
        f"{middle:.3g}): how many of these a sample has decides its mean, so its 95 % interval is not exact; look at "
        "the worst chips and the yield, or measure more chips"
    )


def _skewness(scores: Sequence[float], mean: float) -> float:
    """Third central moment over the second's power 3/2."""
    n = len(scores)
    second = math.fsum((score - mean) ** 2 for score in scores) / n
    return math.fsum((score - mean) ** 3 for score in scores) / n / second**1.5


def _skewness_z(g1: float, n: int) -> float:
    """The skewness of n normal numbers as a standard normal number; for 8 or more."""
    y = g1 * math.sqrt((n + 1) * (n + 3) / (6 * (n - 2)))
    b2 = 3 * (n * n + 27 * n - 70) * (n + 1) * (n + 3) / ((n - 2) * (n + 5) * (n + 7) * (n + 9))
    w2 = -1 + math.sqrt(2 * (b2 - 1))
    return math.asinh(y / math.sqrt(2 / (w2 - 1))) / math.sqrt(math.log(w2) / 2)


def _checked(values: Iterable[float]) -> list[float]:
    scores = [float(value) for value in values]
    if not scores:
        raise InputError("there are no scores: at least one chip is needed")
    for position, score in enumerate(scores):
        if not math.isfinite(score):
            raise InputError(f"score {position} of {len(scores)} is {score}: scores are finite")
        if abs(score) > LARGEST:
            raise InputError(
                f"score {position} of {len(scores)} is {score:.3g}: nothing can be computed from scores beyond "
                f"{LARGEST:g}; measure at smaller sigmas, or leave this model out"
            )
    return scores


def _mean_std(scores: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; exact sums, so that the order of chips is irrelevant."""
    # Held between the extremes: rounding must not give equal scores a mean beside them, and so a
    # spread of 1e-17.
    mean = min(max(math.fsum(scores) / len(scores), min(scores)), max(scores))
    if len(scores) == 1:
        return mean, None
    squares = math.fsum((score - mean) ** 2 for score in scores)
    return mean, math.sqrt(squares / (len(scores) - 1))


def _tail(level: float) -> float:
    """The probability of either tail; kept small, where floats are dense, and not as 1 - tail."""
    if not 0 < level < 1:
        raise InputError(f"level={level!r}: a confidence level lies between 0 and 1, e.g. 0.95")
    return (1 - level) / 2


def _listed(pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None else list(pair)
