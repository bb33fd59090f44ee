"""One model at one sigma: the scores of its chips."""

import functools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

from crossbar_sim.robustness.drawn_scores import (
    MOST_CHIPS,
    components,
    drawn_interval,
    rule_of_three,
    yield_drawn,
)
from crossbar_sim.robustness.metrics import described
from crossbar_sim.robustness.plans import exact, plan_of
from crossbar_sim.robustness.score import tail_in
from crossbar_sim.robustness.statistics import (
    Percentile,
    Summary,
    Yield,
    check_percent,
    percentile,
    summarise,
    yield_at,
)
from crossbar_sim.robustness.two_stage import Done
from crossbar_sim.store.records import Task, Trial


@dataclass(frozen=True, eq=False)
class Point:
    """One model at one sigma.

    Args:
        label, metric, sigma: of what.
        clean: the clean model's score.
        population: examples that there are.
        trials: of each chip, in the order of their numbers.
        done: for drawn images: what the plan came to; None where all images are used, or the plan is not at its end.
        drawn: whether each chip saw images of its own, not all of them.
    """

    label: str
    metric: str
    sigma: float
    clean: float
    population: int
    trials: tuple[Trial, ...]
    drawn: bool = False
    done: Done | None = None

    @classmethod
    def of_trials(cls, label: str, task: Task, trials: Iterable[Trial]) -> tuple["Point", ...]:
        """The points of one task, by ascending sigma; of drawn images, those trials that the estimate is made of."""
        points, count = [], task.identity["images"]["count"]
        for sigma, group in groupby(sorted(trials, key=lambda t: t.place), key=lambda t: t.sigma):
            rows, done, drawn = tuple(group), None, task.drawn and not exact(task, sigma)
            if drawn:
                rows, done = _counting(task, rows)
            points.append(cls(label, task.metric, sigma, task.clean, count, rows, drawn, done))
        return tuple(points)

    @property
    def chips(self) -> tuple[int, ...]:
        """The chips' numbers, ascending."""
        return tuple(trial.chip for trial in self.trials)

    @property
    def values(self) -> tuple[float, ...]:
        """One score per chip."""
        return tuple(trial.value for trial in self.trials)

    @property
    def images(self) -> int:
        """Examples per chip."""
        return self.trials[0].images

    @functools.cached_property
    def summary(self) -> Summary:
        """Mean with its 95 % interval, quantiles and the rest, over chips, of the scores as measured."""
        found = summarise(self.values)
        interval = drawn_interval(self.values, self.images, self.population) if self.drawn else None
        return found if interval is None else replace(found, ci95=(interval.low, interval.high))

    @property
    def spread(self) -> float | None:
        """Standard deviation between chips, without what drawing images adds to it; None for one chip."""
        if not self.drawn or len(self.trials) < 2:
            return self.summary.std
        return components(self.values, self.variances).spread

    @property
    def variances(self) -> tuple[float, ...]:
        """Of each score over its draw of images; 0 where all were used."""
        return tuple(trial.variance for trial in self.trials)

    def unseen(self, chips: int, level: float = 0.95) -> float:
        """What the rule of three adds to the square of a half-width over so many of the chips; 0 on all images."""
        return float(rule_of_three(chips, self.images, self.population, level)) if self.drawn else 0.0

    @functools.cached_property
    def caution(self) -> str | None:
        """A sentence where the scores have a long tail, so that the interval of their mean is too short; else None."""
        return tail_in(self.values, self.metric)

    def passing(self, threshold: float) -> Yield:
        """The share of chips at or above a threshold, with its 95 % interval."""
        if not self.drawn:
            return yield_at(self.values, threshold)
        return yield_drawn(self.values, self.variances, threshold)

    def percentile(self, percent: float) -> Percentile | None:
        """The score below which so many per cent of the chips are, see `statistics.percentile`.

        None for drawn images: the spread of measured scores is then not that of the chips.

        Raises:
            InputError: if it is not between 0 and 100.
        """
        percent = check_percent(percent)
        return None if self.drawn and self.images < self.population else percentile(self.values, percent)

    def as_dict(self, threshold: float | None = None, percent: float | None = None) -> dict[str, Any]:
        """Plain numbers for JSON; with a percentile if one is given."""
        low = None if percent is None else self.percentile(percent)
        summary = self.summary.as_dict()
        return {
            "label": self.label,
            "metric": self.metric,
            "sigma": self.sigma,
            "clean": self.clean,
            "chips": len(self.trials),
            "images": self.images,
            "drawn": self.drawn,
            "spent": None if self.done is None else asdict(self.done.spent),
            "plain": None
            if self.done is None or self.done.plain.chips >= MOST_CHIPS
            else asdict(self.done.plain),
            "mean": summary["mean"],
            "ci95": summary["ci95"],
            "spread": self.spread,
            "min": summary["min"],
            "max": summary["max"],
            "median": summary["median"],
            "quantiles": summary["quantiles"],
            "yield": None if threshold is None else self.passing(threshold).as_dict(),
            **self._shown(),
            **({} if percent is None else {"percentile": None if low is None else low.as_dict()}),
            **({} if self.caution is None else {"caution": self.caution}),
        }

    def _shown(self) -> dict[str, Any]:
        """Of a metric whose statistics are of its logarithm: the numbers as people read them."""
        judge = described(self.metric)
        if not judge.logarithm:
            return {}
        found = self.summary.mapped(judge.shown).as_dict()
        kept = ("mean", "ci95", "min", "max", "median")
        return {"shown": {"clean": judge.shown(self.clean), **{name: found[name] for name in kept}}}


def _counting(task: Task, rows: tuple[Trial, ...]) -> tuple[tuple[Trial, ...], Done | None]:
    """The trials that count, and the plan's end; before the end, the trials of the current round."""
    step = plan_of(task).next_step(rows)
    if isinstance(step, Done):
        return tuple(t for t in rows if t.images == step.images and t.chip < step.chips), step
    images = step.images if any(t.images == step.images for t in rows) else rows[0].images
    return tuple(t for t in rows if t.images == images), None
