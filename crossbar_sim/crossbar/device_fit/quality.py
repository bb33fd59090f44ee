"""Goodness of fit, in numbers and in one sentence."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from crossbar_sim.crossbar.device_fit.estimation import SPREAD_ERROR, spread_of
from crossbar_sim.crossbar.device_fit.measurements import Float64, Measurements

CUT = 4.0
"""Rows beyond this many spreads are left out of the fit; 6 in 100,000 normal errors are."""
MOST_WILD = 0.5
"""Largest share of outliers in a group of similar target and time: above it, the law is wrong, not the rows."""
WILD_LIMIT = 0.2
"""A group is off, or a table poor, if its share of outliers is above this."""

LEAST_GROUP = 8
FAMILY = 0.01
"""Probability that a correct law is rejected."""
MEAN_LIMIT, SPREAD_LIMIT, SHAPE_LIMIT, WILD = 0.3, 1.3, 0.06, 5.0
"""Differences that matter in practice: spreads, a factor, a distance of distribution functions, spreads."""
MOST_TARGETS, MOST_TIMES = 12, 10


@dataclass(frozen=True)
class Group:
    """Readings of similar target and time.

    Args:
        target, time: their medians, in S and s.
        rows: how many.
        mean_off: median of the standardised residuals: 0 for a law that holds.
        spread_ratio: spread of the standardised residuals: 1 for a law that holds.
        off: whether either is off by more than matters, and by more than chance makes plausible.
    """

    target: float
    time: float
    rows: int
    mean_off: float
    spread_ratio: float
    off: bool


@dataclass(frozen=True)
class Quality:
    """The quality of a fit, from its residuals.

    Args:
        grade: "good", "fair" or "poor".
        sentence: the same in words, with the worst place.
        groups: readings of like target and time, of at least 8 rows.
        wild: share of rows beyond 5 spreads (6e-7 for normal errors).
        distance: largest difference between the distribution of the standardised residuals and the normal one.
    """

    grade: str
    sentence: str
    groups: tuple[Group, ...]
    wild: float
    distance: float

    def lowered(self, reason: str) -> "Quality":
        """The same quality with "fair" in place of "good", for a reason that residuals do not show."""
        if self.grade != "good":
            return self
        sentence = self.sentence.replace("The fit is good: ", f"The fit is fair: {reason}; ")
        return replace(self, grade="fair", sentence=sentence)

    def as_dict(self) -> dict[str, Any]:
        """The quality as JSON can hold it."""
        return asdict(self)


def judge(data: Measurements, u: Float64, converged: bool) -> Quality:
    """Judge a fit by its standardised residuals u, (n,)."""
    kept = plausible(data, u)
    # Mean and spread of a group cannot be judged if more than a fifth of it reads 0 S.
    members = [m for m in _members(data) if data.floored[m[kept[m]]].mean() <= 0.2]
    groups = tuple(_group(data, u, rows, kept, FAMILY / max(len(members), 1)) for rows in members)
    wild = float(np.mean(np.abs(u) > WILD))
    checked = np.concatenate(members) if members else np.arange(u.size)
    ordered = np.sort(u[checked[kept[checked]]])
    steps = np.arange(ordered.size + 1) / ordered.size
    normal = stats.norm.cdf(ordered)
    distance = float(max(np.max(steps[1:] - normal), np.max(normal - steps[:-1])))
    odd = (
        distance > SHAPE_LIMIT and distance * math.sqrt(ordered.size) > 1.95
    )  # 0.1 % of a Kolmogorov distribution
    off = [group for group in groups if group.off]
    worst = max((abs(group.mean_off) for group in off), default=0.0)
    failed = not converged or 10 * len(off) > len(groups) or worst > 1 or (distance > 2 * SHAPE_LIMIT and odd)
    failed = failed or wild > WILD_LIMIT
    grade = "poor" if failed else "fair" if off or odd or wild > 0.01 or not groups else "good"
    return Quality(
        grade,
        _sentence(grade, groups, off, wild, distance if odd else 0.0, converged),
        groups,
        wild,
        distance,
    )


def screened(data: Measurements) -> NDArray[np.bool_]:
    """Mask (n,) of the rows of the first fit: those near the median of their group.

    A spread of the whole table would let many wild rows hide each other, as a spread of 10 % stuck cells does.
    """
    y = data.measured - data.target
    z = np.zeros_like(y)
    for rows in _members(data):
        off = y[rows] - np.median(y[rows])
        spread = 1.4826 * float(np.median(np.abs(off)))
        z[rows] = off / spread if spread > 0 else 0.0
    return plausible(data, z / 1.5)  # 6 spreads, as a median of few rows is uncertain


def plausible(data: Measurements, u: Float64) -> NDArray[np.bool_]:
    """Mask (n,) of the rows of a fit: standardised residuals u, (n,), within `CUT` spreads.

    Where more than half of the rows of like target and time are beyond, or of like target or of like time where
    they are too few, all of them count: then the law is at fault.
    """
    far = np.abs(u) > CUT
    if not far.any() or far.mean() > MOST_WILD:
        return np.ones_like(far)
    targets, times = _bins(data.target, MOST_TARGETS), _bins(data.time, MOST_TIMES)
    both = targets * (times.max() + 1) + times
    small = np.bincount(both)[both] < LEAST_GROUP
    crowded = np.where(
        small, np.maximum(_share(far, targets), _share(far, times)) > MOST_WILD, _share(far, both) > MOST_WILD
    )
    kept: NDArray[np.bool_] = ~far | crowded
    return kept


def _share(far: NDArray[np.bool_], numbers: NDArray[np.int64]) -> Float64:
    """For every row, the share of its group that is far off, (n,)."""
    share: Float64 = (np.bincount(numbers, far) / np.maximum(np.bincount(numbers), 1))[numbers]
    return share


def _members(data: Measurements) -> list[Any]:
    """Indices of the rows of each group that is large enough, by target and time."""
    targets, times = _bins(data.target, MOST_TARGETS), _bins(data.time, MOST_TIMES)
    keys = targets * (times.max() + 1) + times
    order = np.argsort(keys, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)
    return [part for part in parts if part.size >= LEAST_GROUP]


def _bins(values: Float64, most: int) -> Any:
    """The number of each value's group: distinct values if they are few, else quantiles."""
    distinct, numbers = np.unique(values, return_inverse=True)
    if distinct.size <= most:
        return numbers
    most = max(2, min(most, int(math.sqrt(values.size / (2 * LEAST_GROUP)))))
    edges = np.unique(np.quantile(values, np.arange(1, most) / most))
    return np.searchsorted(edges, values, side="right")


def _group(data: Measurements, u: Float64, rows: Any, kept: NDArray[np.bool_], chance: float) -> Group:
    """One group, off with a probability of at most `chance` if the law is right."""
    part = u[rows[kept[rows]]]
    middle = float(np.median(part))
    ratio = spread_of(part)
    # Readings of one cell are dependent: the number of independent readings is the number of cells.
    n = part.size if data.cell is None else np.unique(data.cell[rows[kept[rows]]]).size
    # The standard error of a median at a normal distribution is 1.2533/sqrt(n).
    mean_off = abs(middle) > MEAN_LIMIT and abs(middle) * math.sqrt(n) / 1.2533 > stats.norm.isf(chance / 4)
    spread_off = (
        abs(math.log(max(ratio, 1e-9))) > math.log(SPREAD_LIMIT) and _spread_chance(ratio, n) < chance / 2
    )
    wild = int(np.count_nonzero(~kept[rows]))
    wild_off = wild > WILD_LIMIT * rows.size and stats.binom.sf(wild - 1, rows.size, WILD_LIMIT) < chance / 2
    return Group(
        float(np.median(data.target[rows])), float(np.median(data.time[rows])), int(rows.size), middle, ratio,
        bool(mean_off or spread_off or wild_off),
    )  # fmt: skip


def _spread_chance(ratio: float, n: int) -> float:
    """Probability that `spread_of` n normal numbers of spread 1 is as far from 1 as `ratio`, or farther.

    (k - 0.5) ratio^2 has very nearly a chi-squared distribution of k - 1 degrees of freedom, with
    k = n / (2 SPREAD_ERROR^2): simulated quantiles at 1e-4 differ by at most 5 % of the ratio from 8 numbers on. The
    logarithm of the spread of few numbers has a long tail towards 0 and is not normal.
    """
    k = n / (2 * SPREAD_ERROR**2)
    if k <= 1:
        return 1.0
    square = (k - 0.5) * ratio * ratio
    return float(2 * min(stats.chi2.cdf(square, k - 1), stats.chi2.sf(square, k - 1)))


def _sentence(
    grade: str, groups: tuple[Group, ...], off: list[Group], wild: float, odd: float, converged: bool
) -> str:
    words = [f"The fit is {grade}: "]
    if not converged:
        words.append("it did not settle on one set of parameters, measure more targets or times; ")
    if not groups:
        words.append(f"no group of like target and time has {LEAST_GROUP} rows, so nothing could be checked")
    elif off:
        worst = max(off, key=lambda g: max(abs(g.mean_off), abs(math.log(max(g.spread_ratio, 1e-9)))))
        words.append(
            f"in {len(off)} of {len(groups)} groups of like target and time the law misses the measurements, worst at "
            f"{worst.target * 1e6:.3g} uS and {worst.time:.3g} s, where the mean error is off by "
            f"{abs(worst.mean_off):.2g} spreads and the measured spread is {worst.spread_ratio:.2g} times the law's"
        )
    else:
        mean = max(abs(g.mean_off) for g in groups)
        ratios = [g.spread_ratio for g in groups]
        words.append(
            f"in all {len(groups)} groups of like target and time the mean error is within {mean:.2g} spreads and "
            f"the spread within {min(ratios):.2g} .. {max(ratios):.2g} times that of the measurements"
        )
    if odd:
        words.append(
            f"; the errors are not normal (their distribution differs from it by {odd:.2g}), the laws are"
        )
    if wild > 0.001:
        words.append(
            f"; {wild:.1%} of the rows lie beyond {WILD:g} spreads and are no part of the law: stuck cells are "
            "given with stuck_off and stuck_on"
        )
    return "".join(words) + "."
