"""Networks that differ in their training seed alone, as one group: the seed of training is a random unit too.

The chips of a sweep show how one network performs on hardware. How good a training method is, is another question:
another training seed gives another curve. Here one network is one observation: its score is the mean over its chips.
Intervals and tests are over networks. All networks are evaluated on the same chips, and the effect of these chips is
not part of these intervals; `GroupPoint.ci95_chips` is the interval over chips.
"""

import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from crossbar_sim.errors import InputError
from crossbar_sim.robustness.comparisons import holm
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.statistics import Interval, mean_interval
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.store.records import Task, canonical
from crossbar_sim.validate import unknown

_SEEDED = re.compile(r"(?P<group>.+), seed \d+")
_ROUNDING = 1e-12
"""Relative to the scores: a spread below it is that of rounding."""


@dataclass(frozen=True)
class GroupPoint:
    """A group of networks at one sigma. Scores are as stored: more is better.

    Args:
        group, sigma: of what.
        networks: how many, n.
        mean: over networks, of their means over chips.
        ci95: Student t over the n networks, n - 1 degrees of freedom; None for one network.
        ci95_chips: Student t over chips, of each chip's mean over the networks; None where the networks do not share
            two chips.
        std: between networks; None for one.
        lowest, highest: of the networks' means.
        spread: standard deviation between the chips of one network (root mean square over networks); None for one chip.
        chips: of each network, the fewest.
        worst: the lowest score of a chip of any network.
        passing: share of all chips of all networks at or above the threshold; None without one.
    """

    group: str
    sigma: float
    networks: int
    mean: float
    ci95: tuple[float, float] | None
    ci95_chips: tuple[float, float] | None
    std: float | None
    lowest: float
    highest: float
    spread: float | None
    chips: int
    worst: float
    passing: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class GroupTest:
    """A group against the reference at one sigma: Welch's t test over network means (Biometrika 34:28, 1947).

    Args:
        group, reference, sigma: what is compared.
        difference: mean score of the group less that of the reference.
        ci95: of the difference, with the degrees of freedom of Welch and Satterthwaite, not corrected; None if there
            is no test.
        p_value: two-sided; None with fewer than two networks on a side, or where neither side has a spread.
        adjusted: after Holm's correction over all sigmas and groups of the family.
        networks: (of the group, of the reference).
    """

    group: str
    reference: str
    sigma: float
    difference: float
    ci95: tuple[float, float] | None
    p_value: float | None
    adjusted: float | None
    networks: tuple[int, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return asdict(self)


def group_of(label: str, labels: Iterable[str]) -> str:
    """The group of a label: "aware" for "aware, seed 1", unless a model is called that; else the label itself.

    >>> group_of("aware, seed 1", ["aware, seed 1"]), group_of("a, seed x", ["a, seed x"])
    ('aware', 'a, seed x')
    """
    found = _SEEDED.fullmatch(label)
    return label if found is None or found["group"] in labels else found["group"]


def groups_of(labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Group -> its labels, in the order of the labels."""
    groups: dict[str, tuple[str, ...]] = {}
    for label in labels:
        name = group_of(label, labels)
        groups[name] = (*groups.get(name, ()), label)
    return groups


def groups_in(sweep: Sweep) -> dict[str, tuple[str, ...]]:
    """As `groups_of`; networks that were measured differently do not form a group and stand alone.

    What they differ in (data, chips, design) would be taken for the spread of trainings.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, members in groups_of(sweep.labels).items():
        if unlike_tasks(sweep.tasks[label] for label in members):
            found |= {label: (label,) for label in members}
        else:
            found[name] = members
    return found


def unlike_tasks(tasks: Iterable[Task]) -> tuple[str, ...]:
    """What else than the model differs between tasks: "data", "hardware", "seed", ...

    What programming a chip costs by the plan of an interval budget is the model's too.
    """
    identities = [{**task.identity, "model": None} for task in tasks]
    for identity in identities:
        if isinstance(images := identity.get("images"), Mapping):
            identity["images"] = {**images, "chip_cost": None}
    keys = sorted({key for identity in identities for key in identity})
    return tuple(key for key in keys if len({canonical(identity.get(key)) for identity in identities}) > 1)


def unlike_groups(sweep: Sweep, a: str, b: str) -> tuple[str, ...]:
    """Why two groups of `groups_in` cannot be tested: what else than the networks differs between them."""
    groups = groups_in(sweep)
    return unlike_tasks(sweep.tasks[label] for name in (a, b) for label in groups[name])


def seeded(sweep: Sweep | Sequence[str]) -> bool:
    """Whether any group, of a sweep or by labels alone, has several networks."""
    groups = groups_in(sweep) if isinstance(sweep, Sweep) else groups_of(sweep)
    return any(len(members) > 1 for members in groups.values())


def group_curve(sweep: Sweep, group: str, threshold: float | None = None) -> tuple[GroupPoint, ...]:
    """A group by ascending sigma, at the sigmas that all its networks have.

    Args:
        sweep: with the group's networks in it.
        group: its name.
        threshold: for `passing`, as stored.

    Raises:
        InputError: if the sweep has no such group, or its networks were not measured alike.
    """
    groups = groups_in(sweep)
    if group in groups_of(sweep.labels) and group not in groups:
        differ = unlike_tasks(sweep.tasks[label] for label in groups_of(sweep.labels)[group])
        raise InputError(
            f"the networks of {group} were not measured alike ({', '.join(differ)} differ): they do not form a group; "
            "take each by itself"
        )
    if group not in groups:
        raise InputError(unknown("the group", group, groups))
    curves = [{point.sigma: point for point in sweep.curve(label)} for label in groups[group]]
    shared = sorted(set.intersection(*map(set, curves)))
    return tuple(_point(group, sigma, [curve[sigma] for curve in curves], threshold) for sigma in shared)


def boundless(curves: Mapping[str, Sequence[GroupPoint]]) -> frozenset[str]:
    """Groups whose interval over seeds is wider, at some sigma, than the means of all groups lie apart.

    One training in three that fails does that. Drawn as a band, it would cover every other line.
    """
    means = [point.mean for points in curves.values() for point in points]
    whole = max(means) - min(means)
    return frozenset(
        group
        for group, points in curves.items()
        if any(point.ci95 is not None and point.ci95[1] - point.ci95[0] > whole > 0 for point in points)
    )


def _point(group: str, sigma: float, points: Sequence[Point], threshold: float | None) -> GroupPoint:
    means = [point.summary.mean for point in points]
    interval = mean_interval(means)
    spreads = [point.spread for point in points if point.spread is not None]
    shares = [] if threshold is None else [point.passing(threshold).value for point in points]
    return GroupPoint(
        group=group,
        sigma=sigma,
        networks=len(points),
        mean=math.fsum(means) / len(means),
        ci95=_ends(interval),
        ci95_chips=_ends(_over_chips(points)),
        std=float(np.std(means, ddof=1)) if len(means) > 1 else None,
        lowest=min(means),
        highest=max(means),
        spread=math.sqrt(math.fsum(s * s for s in spreads) / len(spreads)) if spreads else None,
        chips=min(len(point.trials) for point in points),
        worst=min(min(point.values) for point in points),
        passing=math.fsum(shares) / len(shares) if shares else None,
    )


def group_percentile(
    points: Sequence[Point], percent: float
) -> tuple[float, tuple[float, float] | None] | None:
    """The percentile over chips of a group at one sigma: the mean of its networks', with Student's t over networks.

    Args:
        points: of its networks.
        percent: of a network's chips that may be worse.

    Returns:
        The mean as stored, and its 95 % interval (None for one network); None where each chip has its own images.
    """
    found = [point.percentile(percent) for point in points]
    values = [each.value for each in found if each is not None]
    if len(values) < len(points):
        return None
    return math.fsum(values) / len(values), _ends(mean_interval(values))


def _over_chips(points: Sequence[Point]) -> Interval | None:
    """Chips as the unit: every chip's mean over the networks, for these networks."""
    scores = [dict(zip(point.chips, point.values, strict=True)) for point in points]
    shared = sorted(set.intersection(*map(set, scores)))
    return (
        mean_interval(
            [math.fsum(of[chip] for of in scores) / len(scores) for chip in shared],
            unseen=max(point.unseen(len(shared)) for point in points),
        )
        if shared
        else None
    )


def _ends(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)


def group_tests(sweep: Sweep, reference: str) -> tuple[GroupTest, ...]:
    """Every other group against the reference at every sigma that both have, corrected over all of it.

    Groups that were not measured like the reference (see `unlike_groups`) are left out.

    Raises:
        InputError: if the sweep has no such group.
    """
    groups = groups_in(sweep)
    if reference not in groups:
        raise InputError(unknown("reference", reference, groups))
    means = {
        group: _network_means(sweep, members)
        for group, members in groups.items()
        if not unlike_groups(sweep, group, reference)
    }
    return compared(means, reference)


def compared(means: Mapping[str, Mapping[float, Sequence[float]]], reference: str) -> tuple[GroupTest, ...]:
    """The tests of `group_tests`, from the mean score of every network.

    Args:
        means: group -> sigma -> one score for each network.
        reference: one of the groups.
    """
    found = [
        _welch(group, reference, sigma, means[group][sigma], means[reference][sigma])
        for group in means
        if group != reference
        for sigma in sorted(means[group].keys() & means[reference].keys())
    ]
    corrected = holm(test.p_value for test in found)
    return tuple(replace(test, adjusted=p) for test, p in zip(found, corrected, strict=True))


def _network_means(sweep: Sweep, members: Sequence[str]) -> Mapping[float, list[float]]:
    curves = [{point.sigma: point.summary.mean for point in sweep.curve(label)} for label in members]
    return {sigma: [curve[sigma] for curve in curves] for sigma in set.intersection(*map(set, curves))}


def _welch(group: str, reference: str, sigma: float, a: Sequence[float], b: Sequence[float]) -> GroupTest:
    difference = math.fsum(a) / len(a) - math.fsum(b) / len(b)
    none = GroupTest(group, reference, sigma, difference, None, None, None, (len(a), len(b)))
    if min(len(a), len(b)) < 2 or max(np.std(a), np.std(b)) <= _ROUNDING * max(map(abs, (*a, *b))):
        return none
    from scipy import stats  # takes a second to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of scores that one side all shares
        test = stats.ttest_ind(a, b, equal_var=False)
        ends = test.confidence_interval(0.95)
    return replace(none, ci95=(float(ends.low), float(ends.high)), p_value=float(test.pvalue))
