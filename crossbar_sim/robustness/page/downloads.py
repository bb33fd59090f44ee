"""The numbers of a sweep as CSV files that the page carries for download."""

from collections.abc import Iterator
from typing import Any

from crossbar_sim.errors import InputError
from crossbar_sim.robustness.groups import GroupPoint, GroupTest, group_curve, group_tests, groups_in
from crossbar_sim.robustness.page.drawing import Subject, csv_text
from crossbar_sim.robustness.point import Point

MOST_TRIALS = 20_000
"""Trials in the file of chips; `crossbar-sim results` writes all of them."""

_CURVES = (
    "model", "metric", "sigma", "clean", "mean", "low95", "high95", "spread", "median", "min", "max", "threshold",
    "yield", "yield_low95", "yield_high95", "chips", "examples",
)  # fmt: skip
_DIFFERENCES = ("model", "less", "sigma", "difference", "low95", "high95", "p", "p_holm", "chips")
_GROUPS = (
    "group", "sigma", "networks", "mean", "low95", "high95", "lowest", "highest", "spread", "worst", "threshold",
    "yield", "chips",
)  # fmt: skip
_TESTS = (
    "group",
    "less",
    "sigma",
    "difference",
    "low95",
    "high95",
    "p",
    "p_holm",
    "networks",
    "networks_less",
)
_CHIPS = ("model", "metric", "sigma", "chip", "value", "examples", "variance")


def downloads(subject: Subject, threshold: float | None, reference: str | None = None) -> dict[str, str]:
    """File name -> CSV: the points of the curves, the differences to the first model, and the trials of chips.

    Args:
        subject: of the page.
        threshold: as shown.
        reference: of groups of training seeds: their curves and tests take the place of differences of models.
    """
    sweep = subject.sweep
    limit = None if threshold is None else subject.scale.shown(threshold)
    rows = [_point(label, point, limit) for label in sweep.labels for point in sweep.curve(label)]
    found = {"curves.csv": csv_text(_CURVES, rows)}
    if reference is not None:
        groups = [p for group in groups_in(sweep) for p in group_curve(sweep, group, limit)]
        found["groups.csv"] = csv_text(_GROUPS, [_group(point, limit) for point in groups])
        found["tests.csv"] = csv_text(_TESTS, [_test(test) for test in group_tests(sweep, reference)])
    elif len(sweep.labels) > 1:
        found["differences.csv"] = csv_text(_DIFFERENCES, _differences(subject))
    return found | {"chips.csv": csv_text(_CHIPS, _trials(subject))}


def told_of_trials(subject: Subject) -> str:
    """What the file of chips leaves out, in words."""
    if _all_fit(subject):
        return ""
    return f"chips.csv holds the first {_each(subject)} chips of each point; crossbar-sim results writes all of them."


def _point(label: str, point: Point, limit: float | None) -> tuple[Any, ...]:
    s = point.summary
    low, high = s.ci95 or (None, None)
    passed = None if limit is None else point.passing(limit)
    share = (None, None, None) if passed is None else (passed.value, *passed.ci95)
    return (
        label, point.metric, point.sigma, point.clean, s.mean, low, high, point.spread, s.median, s.min, s.max, limit,
        *share, len(point.chips), point.images,
    )  # fmt: skip


def _group(point: GroupPoint, limit: float | None) -> tuple[Any, ...]:
    return (
        point.group, point.sigma, point.networks, point.mean, *(point.ci95 or (None, None)), point.lowest,
        point.highest, point.spread, point.worst, limit, point.passing, point.chips,
    )  # fmt: skip


def _test(test: GroupTest) -> tuple[Any, ...]:
    return (
        test.group, test.reference, test.sigma, test.difference, *(test.ci95 or (None, None)), test.p_value,
        test.adjusted, *test.networks,
    )  # fmt: skip


def _all_fit(subject: Subject) -> bool:
    return sum(len(p.trials) for points in subject.sweep.curves.values() for p in points) <= MOST_TRIALS


def _each(subject: Subject) -> int:
    return max(MOST_TRIALS // sum(map(len, subject.sweep.curves.values())), 1)


def _trials(subject: Subject) -> Iterator[tuple[Any, ...]]:
    every = _all_fit(subject)
    for label in subject.sweep.labels:
        for point in subject.sweep.curve(label):
            for trial in point.trials if every else point.trials[: _each(subject)]:
                yield label, point.metric, trial.sigma, trial.chip, trial.value, trial.images, trial.variance


def _differences(subject: Subject) -> Iterator[tuple[Any, ...]]:
    first, *others = subject.sweep.labels
    for other in others:
        try:
            found = subject.sweep.paired(other, first)
        except InputError:  # no chip in common
            continue
        for sigma, p in found:
            low, high = (None, None) if p.interval is None else (p.interval.low, p.interval.high)
            yield other, first, sigma, p.difference, low, high, p.p_value, p.adjusted, p.chips
