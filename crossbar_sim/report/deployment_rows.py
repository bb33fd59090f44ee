"""A deployment as rows: what the terminal and the figure of `deploy` show."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crossbar_sim.report.formatting import Scale
from crossbar_sim.robustness.deploy import Deployment, LayerReport
from crossbar_sim.robustness.score import collect
from crossbar_sim.robustness.statistics import Summary, summarise


@dataclass(frozen=True, eq=False)
class DeploymentView:
    """The numbers of a deployment; scores as shown: an error is positive."""

    deployment: Deployment

    @functools.cached_property
    def sign(self) -> int:
        """-1 for a metric that is stored with a minus sign."""
        return self.scale.measure.sign

    @functools.cached_property
    def scale(self) -> Scale:
        """The scale of the metric."""
        return Scale.of(self.deployment.judge)

    @functools.cached_property
    def total(self) -> Summary:
        """The main score over chips; its `min` is the lowest shown score, which for an error is the best chip."""
        return self._summary(self.deployment.scores)

    @property
    def uncalibrated(self) -> Summary:
        """The main score over chips without calibration."""
        return self._summary(self.deployment.uncalibrated)

    def _summary(self, scores: Sequence[Any]) -> Summary:
        found = summarise(self.sign * score.value(self.deployment.metric) for score in scores)
        if self.scale.judge.logarithm:
            found = found.mapped(lambda value: self.scale.shown(self.sign * value))
        ends = None if found.ci95 is None else self.scale.judge.cut(*found.ci95, found.mean)
        return replace(found, ci95=ends)

    @property
    def is_cut(self) -> bool:
        """Whether the t interval of the mean leaves the scores that there can be."""
        raw, ends = self.deployment.main.ci95, self.total.ci95
        return ends is not None and raw is not None and sorted(map(self.scale.shown, raw)) != list(ends)

    @property
    def spread(self) -> float | None:
        """The standard deviation between chips, of a perplexity that of its logarithm; None for one chip."""
        return self.deployment.main.std

    @property
    def clean(self) -> float:
        """The score of the clean model."""
        return self.scale.shown(self.deployment.clean.value(self.deployment.metric))

    @property
    def extremes(self) -> tuple[tuple[float, int], tuple[float, int]]:
        """(score, chip) of the worst and of the best chip."""
        low, high = (
            (value, self.deployment.chips[self.total.per_chip.index(value)])
            for value in (self.total.min, self.total.max)
        )
        return (low, high) if self.sign > 0 else (high, low)

    @property
    def limit(self) -> float | None:
        """The threshold; None without one."""
        passing = self.deployment.passing
        return None if passing is None else self.scale.shown(passing.threshold)

    @property
    def reached(self) -> int:
        """How many chips reach the threshold."""
        passing, metric = self.deployment.passing, self.deployment.metric
        return (
            sum(score.value(metric) >= passing.threshold for score in self.deployment.scores)
            if passing
            else 0
        )

    @property
    def others(self) -> Iterator[tuple[str, Summary]]:
        """(metric, summary) of what was measured besides the main score."""
        for name in ("agreement", "output_error"):
            values = collect(self.deployment.scores, name) if name != self.deployment.metric else []
            if values:
                yield name, summarise(values)

    @property
    def arrays(self) -> tuple[int, int, int, float]:
        """(layers on arrays, tiles, cells, share of the tiles' cells in use)."""
        layers = self.deployment.layers
        mapped = [(g, r.hardware.tile) for r in layers for g in r.layer.geometries(r.hardware)]
        cells, tiles = sum(g.cells for g, _ in mapped), sum(g.tiles for g, _ in mapped)
        area = sum(g.tiles * tall * wide for g, (tall, wide) in mapped)
        return sum(r.layer.analog for r in layers), tiles, cells, cells / max(area, 1)

    @property
    def by_sensitivity(self) -> list[LayerReport]:
        """Layers by what each costs alone, the most sensitive first; layers that were not measured last."""
        return sorted(self.deployment.layers, key=loss, reverse=True)


def loss(report: LayerReport) -> float:
    """What the layer costs alone; -inf where that was not measured."""
    return report.sensitivity.drop.mean if report.sensitivity else -math.inf
