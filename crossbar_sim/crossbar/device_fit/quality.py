"""How well a fit describes its measurements, in numbers and in one sentence."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from crossbar_sim.crossbar.device_fit.measurements import Float64, Measurements
from crossbar_sim.crossbar.device_fit.robust import SPREAD_ERROR, spread_of

LEAST_GROUP = 8
FAMILY = 0.01
"""Probability that a right law is faulted at all."""
MEAN_LIMIT, SPREAD_LIMIT, SHAPE_LIMIT, WILD = 0.3, 1.3, 0.06, 5.0
"""What matters in practice: spreads, a factor, a distance of distribution functions, spreads."""
MOST_TARGETS, MOST_TIMES = 12, 10


@dataclass(frozen=True)
class Group:
    """Readings of like target and time.

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
    """What the residuals say.

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

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def judge(data: Measurements, u: Float64, converged: bool) -> Quality:
    """Judge a fit by its standardised residuals u, (n,)."""
    members = _members(data)
    critical = float(stats.norm.isf(FAMILY / (4 * max(len(members), 1))))
    groups = tuple(_group(data, u, rows, critical) for rows in members)
    wild = float(np.mean(np.abs(u) > WILD))
    ordered = np.sort(u[np.concatenate(members)] if members else u)
    steps = np.arange(ordered.size + 1) / ordered.size
    normal = stats.norm.cdf(ordered)
    distance = float(max(np.max(steps[1:] - normal), np.max(normal - steps[:-1])))
    odd = (
        distance > SHAPE_LIMIT and distance * math.sqrt(ordered.size) > 1.95
    )  # 0.1 % of a Kolmogorov distribution
    off = [group for group in groups if group.off]
    worst = max((abs(group.mean_off) for group in off), default=0.0)
    failed = not converged or 10 * len(off) > len(groups) or worst > 1 or (distance > 2 * SHAPE_LIMIT and odd)
    grade = "poor" if failed else "fair" if off or odd or wild > 0.01 or not groups else "good"
    return Quality(
        grade,
        _sentence(grade, groups, off, wild, distance if odd else 0.0, converged),
        groups,
        wild,
        distance,
    )


def _members(data: Measurements) -> list[Any]:
    """Indices of the rows of each group that is large enough, by target and time.

    A group of which more than a fifth reads 0 S says nothing of mean and spread and is left out.
    """
    targets, times = _bins(data.target, MOST_TARGETS), _bins(data.time, MOST_TIMES)
    keys = targets * (times.max() + 1) + times
    order = np.argsort(keys, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)
    return [part for part in parts if part.size >= LEAST_GROUP and data.floored[part].mean() <= 0.2]


def _bins(values: Float64, most: int) -> Any:
    """The number of each value's group: distinct values if they are few, else quantiles."""
    distinct, numbers = np.unique(values, return_inverse=True)
    if distinct.size <= most:
        return numbers
    most = max(2, min(most, int(math.sqrt(values.size / (2 * LEAST_GROUP)))))
    edges = np.unique(np.quantile(values, np.arange(1, most) / most))
    return np.searchsorted(edges, values, side="right")


def _group(data: Measurements, u: Float64, rows: Any, critical: float) -> Group:
    part = u[rows]
    middle = float(np.median(part))
    ratio = spread_of(part)
    root = math.sqrt(part.size)
    # The standard error of a median at a normal distribution is 1.2533/sqrt(n).
    mean_off = abs(middle) > MEAN_LIMIT and abs(middle) * root / 1.2533 > critical
    logarithm = abs(math.log(max(ratio, 1e-9)))
    spread_off = logarithm > math.log(SPREAD_LIMIT) and logarithm * root / SPREAD_ERROR > critical
    return Group(
        float(np.median(data.target[rows])), float(np.median(data.time[rows])), int(part.size), middle, ratio,
        mean_off or spread_off,
    )  # fmt: skip


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
