"""The numbers of a sweep as tables of the page."""

from crossbar_sim.errors import InputError
from crossbar_sim.robustness.groups import seeded
from crossbar_sim.robustness.page import markup
from crossbar_sim.robustness.page.drawing import Subject
from crossbar_sim.robustness.page.headline import crossing_words
from crossbar_sim.robustness.page.layers import drops
from crossbar_sim.robustness.page.look import number, sigma_text, span_text
from crossbar_sim.robustness.page.numbers import Overall, ahead, overall, shared_sigmas
from crossbar_sim.robustness.page.pair_chart import p_text
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.statistics import Interval
from crossbar_sim.robustness.wording import fixed, limit_text


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
    return markup.table("Models", header, [(None, rows)])


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
    return markup.table(
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
    return markup.table("Differences on the same chips", header, groups)


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
    return markup.table(
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
