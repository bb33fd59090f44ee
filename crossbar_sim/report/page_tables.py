"""Tables and downloads of the report page."""

from collections.abc import Iterator
from typing import Any

from crossbar_sim.errors import InputError
from crossbar_sim.report import wording
from crossbar_sim.report.charts import Subject, csv_text, p_text
from crossbar_sim.report.headline import crossing_words
from crossbar_sim.report.look import Names, number, sigma_text, span_text
from crossbar_sim.report.rows import Overall, ahead, drops, overall, shared_sigmas
from crossbar_sim.report.wording import fixed, limit_text
from crossbar_sim.robustness.groups import GroupPoint, GroupTest, group_curve, group_tests, groups_in, seeded
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.statistics import Interval

# The numbers of ways to train, where networks were trained several times: curves over seeds, and their tests.


def of_groups(subject: Subject, threshold: float | None) -> str:
    """One row per way to train and sigma; a network counts by its mean over chips."""
    groups = groups_in(subject.sweep)
    names = Names.of(list(groups)).whole
    limit = None if threshold is None else subject.scale.shown(threshold)
    header = [
        "sigma",
        "mean over networks",
        "95 % interval over seeds",
        "range over seeds",
        "spread of chips",
        "worst chip",
    ]
    if threshold is not None:
        header.append(f"yield at {limit_text(threshold, 0)}")
    bodies = [
        (
            f"{names[group]} ({_count(len(members))})",
            [_group_row(subject, point) for point in group_curve(subject.sweep, group, limit)],
        )
        for group, members in groups.items()
    ]
    return wording.table(
        f"{subject.scale.name} of each way to train, in %; the spread between the chips of one network in points",
        header,
        bodies,
    )


def of_group_tests(subject: Subject, reference: str) -> str:
    """Every other way to train against the reference, at each sigma; nothing where there is one way only.

    Raises:
        InputError: if the sweep has no such group.
    """
    tests = group_tests(subject.sweep, reference)
    names = Names.of(list(groups_in(subject.sweep))).whole
    bodies: dict[str, list[list[str]]] = {}
    for test in tests:
        title = f"{names[test.group]} less {names[reference]}"
        bodies.setdefault(title, []).append(_test_row(subject, test))
    if not bodies:
        return ""
    header = [
        "sigma",
        f"difference in {subject.scale.name} (points)",
        "95 % interval",
        "p",
        "p after Holm",
        "networks",
    ]
    return wording.table("Differences between ways to train", header, list(bodies.items()))


def _group_row(subject: Subject, point: GroupPoint) -> list[str]:
    scale = subject.scale
    span = None if point.ci95 is None else scale.span(*point.ci95)
    half = None if span is None else (span[1] - span[0]) / 2
    row = [
        sigma_text(point.sigma),
        number(scale.shown(point.mean), half),
        "one network: none" if span is None else span_text(*span),
        span_text(*scale.span(point.lowest, point.highest)) if point.networks > 1 else "",
        "" if point.spread is None else number(point.spread, point.spread),
        number(scale.shown(point.worst)),
    ]
    if point.passing is not None:
        row.append(fixed(point.passing, 0))
    return row


def _test_row(subject: Subject, test: GroupTest) -> list[str]:
    scale = subject.scale
    span = None if test.ci95 is None else scale.span(*test.ci95)
    half = None if span is None else (span[1] - span[0]) / 2
    return [
        sigma_text(test.sigma),
        number(scale.shown(test.difference), half),
        "no test" if span is None else span_text(*span),
        "" if test.p_value is None else p_text(test.p_value),
        "" if test.adjusted is None else p_text(test.adjusted),
        f"{test.networks[0]} and {test.networks[1]}",
    ]


def _count(networks: int) -> str:
    return "one network" if networks == 1 else f"{networks} training seeds"


# The numbers of a sweep as tables of the page.


def of_models(subject: Subject, threshold: float | None) -> str:
    """One row per model: clean score, mean over the sigmas, difference to the first, crossing.

    Networks of training seeds have no such difference: chips of single networks say nothing of ways to train.
    """
    sweep, scale, first = subject.sweep, subject.scale, subject.sweep.labels[0]
    sigmas = {p.sigma for points in sweep.curves.values() for p in points}
    where = "over the sigmas" if len(sigmas) > 1 else f"at sigma {sigma_text(sigmas.pop())}"
    over = "95 % interval over chips" if seeded(sweep) else "95 % interval"
    header = ["model", "clean (%)", f"mean {scale.name} {where} (%)", over]
    several = len(sweep.labels) > 1 and not seeded(sweep)
    if several:
        header.append(f"difference to {subject.names.short[first]}, same chips (points)")
    if threshold is not None:
        header.append(f"mean crosses {limit_text(threshold, 0)}")
    rows = []
    for label in sweep.labels:
        whole = overall(sweep, label, shared_sigmas(sweep) or None)
        row = [
            subject.names.whole[label],
            number(scale.shown(sweep.tasks[label].clean)),
            *_overall(subject, whole),
        ]
        if several:
            row.append("" if label == first else _lead(subject, ahead(sweep, label, first)))
        if threshold is not None:
            found = sweep.crossing(label, scale.shown(threshold))
            row.append("one sigma only" if found is None else crossing_words(found))
        rows.append(row)
    return wording.table("Models", header, [(None, rows)])


def of_points(subject: Subject, threshold: float | None) -> str:
    """One row per model and sigma."""
    header = [
        "sigma",
        "mean",
        "95 % interval",
        "spread",
        "median",
        "worst chip",
        "best chip",
        "chips × examples",
    ]
    if threshold is not None:
        header.insert(7, f"yield at {limit_text(threshold, 0)} (95 %)")
    groups = [
        (subject.names.whole[label], [_point_row(subject, p, threshold) for p in subject.sweep.curve(label)])
        for label in subject.sweep.labels
    ]
    return wording.table(
        f"{subject.scale.name} at each sigma, in %; the spread between chips in points", header, groups
    )


def of_pairs(subject: Subject) -> str:
    """Every model against the first, at each sigma; nothing for a single model."""
    first, *others = subject.sweep.labels
    groups = []
    for other in others:
        try:
            found = subject.sweep.paired(other, first)
        except InputError:  # no chip in common
            continue
        rows = [
            [
                sigma_text(sigma),
                _difference(subject, p.difference, p.interval),
                _p(p.p_value),
                _p(p.adjusted),
                str(p.chips),
            ]
            for sigma, p in found
        ]
        groups.append((f"{subject.names.whole[other]} less {subject.names.whole[first]}", rows))
    if not groups:
        return ""
    header = ["sigma", f"difference in {subject.scale.name} (points)", "p", "p after Holm", "chips"]
    return wording.table("Differences on the same chips", header, groups)


def of_layers(subject: Subject) -> str:
    """What each layer costs alone; nothing where it was not measured."""
    groups: dict[str, list[list[str]]] = {}
    for drop in drops(subject.sweep):
        span = "one chip: none" if drop.span is None else span_text(*drop.span)
        row = [drop.layer, number(drop.mean, drop.half), span, str(drop.chips)]
        groups.setdefault(subject.names.whole[drop.label], []).append(row)
    if not groups:
        return ""
    what = f"drop in {subject.scale.name}" if subject.scale.more_is_better else subject.scale.name
    return wording.table(
        "Each layer alone", ["layer", f"{what} (points)", "95 % interval", "chips"], list(groups.items())
    )


def _overall(subject: Subject, found: Overall) -> tuple[str, str]:
    shown = subject.scale.shown(found.estimate)
    if found.interval is None:
        return number(shown), "one chip: none"
    span = subject.scale.span(found.interval.low, found.interval.high)
    return number(shown, found.interval.half_width), span_text(*span)


def _lead(subject: Subject, found: Overall | None) -> str:
    return "no chip in common" if found is None else _difference(subject, found.estimate, found.interval)


def _difference(subject: Subject, estimate: float, interval: Interval | None) -> str:
    if interval is None:
        return f"{number(subject.scale.shown(estimate))} (one chip)"
    span = subject.scale.span(interval.low, interval.high)
    return f"{number(subject.scale.shown(estimate), interval.half_width)} ({span_text(*span)})"


def _point_row(subject: Subject, point: Point, threshold: float | None) -> list[str]:
    summary, scale = point.summary, subject.scale
    span = None if summary.ci95 is None else scale.span(*summary.ci95)
    half = None if span is None else (span[1] - span[0]) / 2
    # What is shown as worst is the lowest score, which is the largest error.
    worst, best = scale.shown(summary.min), scale.shown(summary.max)
    row = [
        sigma_text(point.sigma), number(scale.shown(summary.mean), half),
        "one chip: none" if span is None else span_text(*span),
        "" if point.spread is None else number(point.spread, point.spread),
        number(scale.shown(summary.median), half), number(worst, half), number(best, half),
        f"{len(point.chips)} × {point.images:,}{' drawn' if point.drawn else ''}",
    ]  # fmt: skip
    if threshold is not None:
        passed = point.passing(scale.shown(threshold))
        share, low, high = (fixed(value, 0) for value in (passed.value, *passed.ci95))
        row.insert(7, f"{share} ({low} to {high})")
    return row


def _p(value: float | None) -> str:
    return "" if value is None else p_text(value)


# The numbers of a sweep as CSV files that the page carries for download.


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
