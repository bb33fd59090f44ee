"""The numbers of a sweep, computed once: every table and every curve as rows, which renderers only format."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crossbar_sim.errors import InputError
from crossbar_sim.report.formatting import Names, Scale, law_of, sigma_axis, sigma_text
from crossbar_sim.report.ranking import ahead, overall, shared_sigmas
from crossbar_sim.robustness.curves import Crossing
from crossbar_sim.robustness.drawn_scores import MOST_CHIPS
from crossbar_sim.robustness.groups import (
    GroupPoint,
    boundless,
    group_curve,
    group_percentile,
    group_tests,
    groups_in,
    seeded,
)
from crossbar_sim.robustness.metrics import described
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.statistics import Interval, summarise
from crossbar_sim.robustness.sweep import Sweep

MARGIN = 0.05
"""How far below the lowest clean score the default threshold lies."""

ALPHA = 0.05
"""Significance level of all tests."""


# The rows. Scores are shares of 1, as shown (an error is positive) unless the view is `stored`.


@dataclass(frozen=True)
class Estimate:
    """A number with the ends of its 95 % interval; None, None where there is no interval."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def span(self) -> tuple[float, float] | None:
        """Both ends."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def is_cut(self) -> bool:
        """Whether the value is not in the middle of the interval: one of its ends is where scores end."""
        if self.low is None or self.high is None:
            return False
        return abs(self.low + self.high - 2 * self.value) > 1e-9 * max(abs(self.low), abs(self.high))

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class PointRow:
    """One model at one sigma: the clean score and statistics over chips, of which `passing` is the yield."""

    label: str
    metric: str
    sigma: float
    clean: float
    mean: Estimate
    spread: float | None
    median: float
    worst: float
    best: float
    passing: Estimate | None
    chips: int
    images: int
    drawn: bool
    percentile: Estimate | None = None


@dataclass(frozen=True)
class ChipRow:
    """The score of one chip of one model at one sigma."""

    label: str
    metric: str
    sigma: float
    chip: int
    value: float
    images: int
    variance: float


@dataclass(frozen=True)
class ModelRow:
    """One number per model: its mean score over the sigmas, and its difference `lead` to the first model.

    `lead` is None for the first model and where the two share no chip; `crossing` is None for a single sigma.
    """

    label: str
    clean: float
    score: Estimate
    lead: Estimate | None
    crossing: Crossing | None


@dataclass(frozen=True)
class DifferenceRow:
    """The mean difference of two models, or of two groups, at one sigma.

    Args:
        name, less: score of `name` minus score of `less`.
        adjusted: the p-value after Holm's correction.
        exact: nothing is random, so that there is no test.
        counts: the number of shared chips; of groups, the networks of each.
    """

    name: str
    less: str
    sigma: float
    difference: Estimate
    p_value: float | None
    adjusted: float | None
    exact: bool
    counts: tuple[int, ...]

    @property
    def significant(self) -> bool:
        """Whether it differs from zero after Holm's correction."""
        return self.adjusted is not None and self.adjusted < ALPHA


@dataclass(frozen=True)
class GroupRow:
    """One group of networks at one sigma, statistics over networks; `over_chips` has its interval over chips."""

    group: str
    sigma: float
    networks: int
    mean: Estimate
    over_chips: Estimate
    lowest: float
    highest: float
    spread: float | None
    worst: float
    passing: float | None
    chips: int
    percentile: Estimate | None = None


@dataclass(frozen=True)
class YieldRow:
    """The share of chips that reach a threshold."""

    label: str
    sigma: float
    drawn: bool
    limit: float
    passing: Estimate


@dataclass(frozen=True)
class LayerRow:
    """What one layer costs when it alone is on arrays; mean over chips."""

    label: str
    layer: str
    drop: Estimate
    chips: int


@dataclass(frozen=True)
class Histogram:
    """Cells of one layer by conductance. `edges` in S; counts as mapped and after drift."""

    label: str
    layer: str
    edges: tuple[float, ...]
    target: tuple[int, ...]
    drifted: tuple[int, ...]


@dataclass(frozen=True)
class Costs:
    """The cost of an interval budget, and that of all images on as many chips as these intervals need.

    Args:
        chips, images: evaluated, at points whose plans are complete (`ended`); `missed` the precision, `unfinished`
            are the other points.
        plain: (chips, images) of the plain protocol; None where that needs more chips than are counted.
    """

    chips: int
    images: int
    plain: tuple[int, int] | None
    ended: int
    missed: int
    unfinished: int


# A sweep as rows.


@dataclass(frozen=True, eq=False)
class View:
    """The rows of a sweep of one metric in which every model has a point.

    Args:
        sweep: see `narrowed`.
        threshold: as shown; None: no yield and no crossing.
        stored: give scores as stored (errors negative), not as shown.
        reference: the group that the others are tested against; None: the first.
        percent: of a percentile of the chips' scores beside the mean; None: none.
    """

    sweep: Sweep
    threshold: float | None = None
    stored: bool = False
    reference: str | None = None
    percent: float | None = None

    @functools.cached_property
    def scale(self) -> Scale:
        """The scale of the metric."""
        return Scale.of(self.sweep.judge)

    @functools.cached_property
    def names(self) -> Names:
        """Names of the models."""
        return Names.of(self.sweep.labels)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels of the models that have a point."""
        return tuple(label for label in self.sweep.labels if self.sweep.curve(label))

    @property
    def as_stored(self) -> "View":
        """The same rows with scores as stored."""
        return replace(self, stored=True)

    @property
    def limit(self) -> float | None:
        """The threshold as stored."""
        return None if self.threshold is None else self.scale.stored(self.threshold)

    @functools.cached_property
    def sigmas(self) -> tuple[float, ...]:
        """All sigmas, ascending."""
        return tuple(sorted({p.sigma for points in self.sweep.curves.values() for p in points}))

    @property
    def sigma_axis(self) -> str:
        """Which spread sigma is, with its unit."""
        return sigma_axis([task.identity for task in self.sweep.tasks.values()])

    @property
    def sigma_unit(self) -> float:
        """What figures multiply sigmas by: sigmas in S are drawn in µS."""
        laws = [law_of(task.identity) for task in self.sweep.tasks.values()]
        return 1e6 if all(absolute or kind == "relaxation" for kind, absolute in laws) else 1.0

    @property
    def several_chips(self) -> bool:
        """Whether any point has more than one chip, and so an interval."""
        return any(len(p.trials) > 1 for points in self.sweep.curves.values() for p in points)

    def score(self, value: float) -> float:
        """A stored score as this view gives it."""
        return value if self.stored else self.scale.shown(value)

    def ends(self, low: float, high: float) -> tuple[float, float]:
        """The ends of an interval of stored scores as this view gives them."""
        return (low, high) if self.stored else self.scale.span(low, high)

    def estimate(self, value: float, span: tuple[float, float] | None) -> Estimate:
        """A stored score with its interval as this view gives it."""
        return Estimate(self.score(value), *((None, None) if span is None else self.ends(*span)))

    def of_interval(self, value: float, interval: Interval | None) -> Estimate:
        """The same from an `Interval`."""
        return self.estimate(value, None if interval is None else (interval.low, interval.high))

    def of_difference(self, value: float, span: tuple[float, float] | None) -> Estimate:
        """A difference of stored scores with its interval as this view gives it."""
        if self.stored:
            return Estimate(value, *(span or (None, None)))
        ends = None if span is None else self.scale.difference_span(*sorted(map(self.scale.difference, span)))
        return Estimate(self.scale.difference(value), *(ends or (None, None)))

    @functools.cached_property
    def curves(self) -> dict[str, tuple[PointRow, ...]]:
        """Label -> one row per sigma, ascending."""
        return {label: tuple(self._point(label, p) for p in self.sweep.curve(label)) for label in self.labels}

    @property
    def points(self) -> Iterator[PointRow]:
        """The rows of all models, one model after the other."""
        return (row for rows in self.curves.values() for row in rows)

    def _point(self, label: str, point: Point) -> PointRow:
        summary = point.summary
        return PointRow(
            label=label,
            metric=point.metric,
            sigma=point.sigma,
            clean=self.score(point.clean),
            mean=self.estimate(summary.mean, summary.ci95),
            spread=point.spread,
            median=self.score(summary.median),
            worst=self.score(summary.min),
            best=self.score(summary.max),
            passing=None if self.limit is None else _share(point, self.limit),
            chips=len(point.chips),
            images=point.images,
            drawn=point.drawn and point.images < point.population,
            percentile=self._percentile(point),
        )

    def _percentile(self, point: Point) -> Estimate | None:
        found = None if self.percent is None else point.percentile(self.percent)
        if found is None:
            return None
        low, high = (None if end is None else self.score(end) for end in found.ci95)
        turned = not self.stored and self.scale.measure.sign < 0
        return Estimate(self.score(found.value), *((high, low) if turned else (low, high)))

    def chips(self, most: int | None = None) -> Iterator[ChipRow]:
        """The scores of the first `most` chips of each point; None: of all."""
        for label in self.labels:
            for point in self.sweep.curve(label):
                for t in point.trials[:most]:
                    value = self.score(t.value)
                    yield ChipRow(label, point.metric, t.sigma, t.chip, value, t.images, t.variance)

    @functools.cached_property
    def costs(self) -> Costs:
        """What an interval budget cost, over all points on drawn images."""
        points = [point for label in self.labels for point in self.sweep.curve(label)]
        done = [point.done for point in points if point.done is not None]
        counted = all(d.plain.chips < MOST_CHIPS for d in done)
        return Costs(
            chips=sum(d.spent.chips for d in done),
            images=sum(d.spent.images for d in done),
            plain=(sum(d.plain.chips for d in done), sum(d.plain.images for d in done)) if counted else None,
            ended=len(done),
            missed=sum(not d.reached for d in done),
            unfinished=sum(point.drawn and point.done is None for point in points),
        )

    @functools.cached_property
    def crossings(self) -> dict[str, Crossing | None]:
        """Label -> where the mean crosses the threshold."""
        limit = self.limit
        return {label: None if limit is None else self.sweep.crossing(label, limit) for label in self.labels}

    @functools.cached_property
    def areas(self) -> dict[str, Estimate | None]:
        """Label -> the mean score over all sigmas of this model; None for one sigma."""
        found = {label: self.sweep.area(label) for label in self.labels}
        return {label: None if a is None else self.of_interval(a.estimate, a) for label, a in found.items()}

    @functools.cached_property
    def models(self) -> tuple[ModelRow, ...]:
        """One row per model. Networks of training seeds have no `lead`: it says nothing about ways to train."""
        sweep, first, rows = self.sweep, self.sweep.labels[0], []
        for label in sweep.labels:
            whole = overall(sweep, label, shared_sigmas(sweep) or None)
            lead = None if label == first or seeded(sweep) else ahead(sweep, label, first)
            rows.append(
                ModelRow(
                    label,
                    self.score(sweep.tasks[label].clean),
                    self.of_interval(whole.estimate, whole.interval),
                    None
                    if lead is None
                    else self.of_difference(
                        lead.estimate,
                        None if lead.interval is None else (lead.interval.low, lead.interval.high),
                    ),
                    self.crossings[label],
                )
            )
        return tuple(rows)

    @functools.cached_property
    def differences(self) -> dict[str, tuple[DifferenceRow, ...]]:
        """Label -> its differences to the first model; only models that can be compared with it."""
        first, *others = self.labels
        found = {other: self.pair(other, first) for other in others}
        return {label: rows for label, rows in found.items() if rows}

    def pair(self, a: str, b: str) -> tuple[DifferenceRow, ...]:
        """`a` minus `b` on the same chips at each sigma; nothing where they share no chip or were measured unlike."""
        if self.sweep.not_paired(a, b):
            return ()
        return tuple(
            DifferenceRow(
                a, b, sigma,
                self.of_difference(p.difference, None if p.interval is None else (p.interval.low, p.interval.high)),
                p.p_value, p.adjusted, p.exact,
                (p.chips,),
            )
            for sigma, p in self.sweep.paired(a, b)
        )  # fmt: skip

    @functools.cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Group of training seeds -> the labels of its networks."""
        return dict(groups_in(self.sweep))

    @functools.cached_property
    def group_points(self) -> dict[str, tuple[GroupPoint, ...]]:
        """Group -> its statistics as stored."""
        return {group: group_curve(self.sweep, group, self.limit) for group in self.groups}

    @functools.cached_property
    def wide(self) -> frozenset[str]:
        """Groups whose band would cover the chart, see `boundless`."""
        return boundless(self.group_points)

    @functools.cached_property
    def group_curves(self) -> dict[str, tuple[GroupRow, ...]]:
        """Group -> one row per sigma, ascending."""
        return {
            group: tuple(
                GroupRow(
                    group, p.sigma, p.networks, self.estimate(p.mean, p.ci95),
                    self.estimate(p.mean, p.ci95_chips), *self.ends(p.lowest, p.highest), p.spread,
                    self.score(p.worst), p.passing, p.chips, self._group_percentile(group, p.sigma),
                )
                for p in points
            )
            for group, points in self.group_points.items()
        }  # fmt: skip

    def _group_percentile(self, group: str, sigma: float) -> Estimate | None:
        if self.percent is None:
            return None
        points = [p for label in self.groups[group] for p in self.sweep.curve(label) if p.sigma == sigma]
        found = group_percentile(points, self.percent)
        return None if found is None else self.estimate(*found)

    @functools.cached_property
    def tests(self) -> tuple[DifferenceRow, ...]:
        """Every other group minus the reference at each sigma.

        Raises:
            InputError: if the sweep has no such group.
        """
        reference = next(iter(self.groups)) if self.reference is None else self.reference
        return tuple(
            DifferenceRow(
                t.group, t.reference, t.sigma, self.of_difference(t.difference, t.ci95), t.p_value, t.adjusted,
                False, t.networks,
            )
            for t in group_tests(self.sweep, reference)
        )  # fmt: skip

    def yields(self, sigma: float, steps: int, most: int) -> dict[str, list[YieldRow]]:
        """Label -> its yield at one sigma over the thresholds, ascending.

        The share of chips that reach a threshold changes at the scores of the chips and is constant in between:
        these are the rows. A value belongs to the threshold itself: for a score of which more is better it holds from
        the threshold before up to this one ("step before"), for an error from this one on ("step after"). Scores on
        drawn images give a smooth estimate (`yield_drawn`), which is evaluated at round thresholds.

        Args:
            sigma: of the curves.
            steps: about how many round thresholds at most.
            most: how many different scores of chips at most; of more, some are left out evenly.
        """
        points = [(label, p) for label in self.labels for p in self.sweep.curve(label) if p.sigma == sigma]
        limits = thresholds([value for _, point in points for value in point.values], self.scale, steps)
        found = {}
        for label, point in points:
            places, drawn = limits, point.drawn and point.images < point.population
            if not drawn:
                scores = sorted({self.scale.shown(value) for value in point.values})
                scores = [scores[i] for i in spread_evenly(len(scores), most)]
                places = sorted({*scores, limits[0], limits[-1]})
            found[label] = [
                YieldRow(label, sigma, drawn, limit, _share(point, self.scale.stored(limit)))
                for limit in places
            ]
        return found

    def telling_sigma(self, sigmas: Sequence[float]) -> float:
        """The sigma at which the yield of the first model is nearest to a half; without a threshold the middle one."""
        middle, limit = sigmas[len(sigmas) // 2], self.limit
        points = [p for p in self.sweep.curve(self.sweep.labels[0]) if p.sigma in set(sigmas)]
        if limit is None or not points:
            return middle
        return min((abs(p.passing(limit).value - 0.5), abs(p.sigma - middle), p.sigma) for p in points)[2]

    @functools.cached_property
    def layers(self) -> tuple[LayerRow, ...]:
        """Every layer of every model whose sensitivity was measured. Drops are stored as shown."""
        rows = []
        for label in self.sweep.labels:
            for layer in layers_of(self.sweep, label, "sensitivity"):
                values = [float(value) for value in layer["drops"]]
                if values:
                    s = summarise(values)
                    ends = None if s.ci95 is None else self.scale.difference_span(*s.ci95)
                    drop = Estimate(s.mean, *(ends or (None, None)))
                    rows.append(LayerRow(label, str(layer["name"]), drop, len(values)))
        return tuple(rows)

    @property
    def most_sensitive(self) -> list[str]:
        """Names of the layers, ordered by their largest drop in any model."""
        worst: dict[str, float] = {}
        for row in self.layers:
            worst[row.layer] = max(row.drop.value, worst.get(row.layer, -math.inf))
        return sorted(worst, key=lambda name: -worst[name])

    @functools.cached_property
    def histograms(self) -> tuple[Histogram, ...]:
        """Conductances of every layer for which they were counted."""
        return tuple(
            Histogram(
                label,
                str(layer["name"]),
                tuple(map(float, layer["edges"])),
                tuple(map(int, layer["target"])),
                tuple(map(int, layer["drifted"])),
            )
            for label in self.sweep.labels
            for layer in layers_of(self.sweep, label, "conductances")
        )


def _share(point: Point, limit: float) -> Estimate:
    passed = point.passing(limit)
    return Estimate(passed.value, *passed.ci95)


def spread_evenly(count: int, most: int) -> list[int]:
    """At most `most` of 0 .. count - 1, evenly, with the first and the last."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def thresholds(scores: Sequence[float], scale: Scale, most: int) -> list[float]:
    """At most about `most` round thresholds, as shown, over a range a little wider than that of these scores."""
    low, high = (f(scale.shown(score) for score in scores) for f in (min, max))
    first = -4 if scale.per_cent else -9
    steps = (digit * 10.0**power for power in range(first, 300) for digit in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step <= most - 4)
    if high == low and not scale.per_cent:  # one step around scores that are all the same
        step = 10.0 ** math.floor(math.log10(abs(high))) / 10 if high else 1.0
    limits = [round(i * step, 10) for i in range(math.floor(low / step) - 1, math.ceil(high / step) + 2)]
    if scale.per_cent:
        return [t for t in limits if t >= 0 and not (scale.more_is_better and t > 1)]
    return [t for t in limits if not scale.judge.logarithm or t >= 1] or [low, high]


def default_threshold(sweep: Sweep) -> float | None:
    """The lowest clean score minus 5 points, rounded down to whole per cent; None for an error.

    Models below half of the best clean score do not count: a failed training must not lower the limit. Of built-in
    metrics that are no shares (docs/metrics.md): what is allowed beyond the worst clean score of a model that is at
    most twice as bad as the best one.
    """
    judge = sweep.judge
    if judge.easing is not None:
        shown = [judge.shown(task.clean) for task in sweep.tasks.values()]
        if judge.sign > 0:
            return judge.easing(
                min(value for value in shown if value >= max(shown) / 2 or value == max(shown))
            )
        return judge.easing(max(value for value in shown if value <= 2 * min(shown)))
    if not judge.share or judge.sign < 0:
        return None
    scores = [task.clean for task in sweep.tasks.values()]
    clean = min(score for score in scores if score >= max(scores) / 2)
    return max(math.floor(100 * (clean - MARGIN) + 1e-9), 0) / 100


def check_threshold(metric: str, threshold: float) -> None:
    """Refuse a threshold that no score can reach.

    Raises:
        InputError: with the value and the allowed range.
    """
    described(metric).check_threshold(threshold)


# Details of single layers in a results file: sensitivity and conductances.


def layers_of(sweep: Sweep, label: str, name: str) -> list[Mapping[str, Any]]:
    """The layers of one model under "sensitivity" or "conductances"; none where that was not measured.

    Raises:
        InputError: if they are not in the form in which `sweep` writes them.
    """
    detail = sweep.details.get(label, {}).get(name)
    if not detail:
        return []
    try:
        if name == "sensitivity":
            detail = {**detail, "chips": [int(c) for c in detail["chips"]], "images": int(detail["images"])}
        for layer in detail["layers"]:
            str(layer["name"])
            numbers = [layer["drops"]] if name == "sensitivity" else [layer["target"], layer["drifted"]]
            for values in numbers:
                if not all(math.isfinite(float(value)) for value in values):
                    raise ValueError("a number that is not finite")
            if (
                name == "conductances"
                and not len(layer["edges"]) - 1 == len(numbers[0]) == len(numbers[1]) > 0
            ):
                raise ValueError("edges and counts that do not fit")
        float(detail["sigma"])
        return list(detail["layers"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"the {name} of {label} cannot be read from these results ({type(error).__name__}: {error}): "
            "they are damaged or of another version"
        ) from None


def conditions(sweep: Sweep, name: str) -> Iterator[str]:
    """How the details `name` were measured, once for all models where they agree; else with the models."""
    words: dict[str, list[str]] = {}
    names = Names.of(sweep.labels).short
    for label in sweep.labels:
        if not layers_of(sweep, label, name):
            continue
        detail = sweep.details[label][name]
        parts = [f"sigma {sigma_text(float(detail['sigma']))}"]
        if name == "sensitivity":
            n = len(detail["chips"])
            parts.append(f"{n} chips" if n > 1 else f"{n} chip, which has no interval")
            parts.append(f"{int(detail['images']):,} examples")
        else:
            parts.append(f"chip {detail.get('chip')}")
        words.setdefault(", ".join(parts), []).append(names[label])
    if len(words) == 1:
        yield f"Measured at {next(iter(words))}."
    elif words:
        whose = "; ".join(f"{how} ({', '.join(labels)})" for how, labels in words.items())
        yield f"Measured at {whose}: do not compare models across these."
