"""A trade-off as rows: one per combination of values of a design."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crossbar_sim.report.formatting import Scale
from crossbar_sim.report.rows import Estimate
from crossbar_sim.robustness.tradeoff import TradeOff

COSTS = {"energy": ("J", 1.0), "latency": ("s", 1.0), "area": ("mm2", 1e6)}
"""Costs of one inference: their unit as shown, and its factor."""


@dataclass(frozen=True)
class TradeOffRow:
    """One combination: its values, its score as shown (`computed`: with the interval as computed), its costs in SI
    units, whether it is on the front, and what all but some per cent of its chips reach.

    A combination is on the Pareto front if no other has a score and a cost that are both at least as good and one of
    them better.
    """

    values: Mapping[str, str]
    score: Estimate | None = None
    computed: Estimate | None = None
    energy: float = math.nan
    latency: float = math.nan
    area: float = math.nan
    front: bool = False
    impossible: str = ""
    percentile: Estimate | None = None

    def cost(self, name: str) -> float:
        """A cost as shown: J, s or mm2."""
        value: float = getattr(self, name)
        return value * COSTS[name][1]


@dataclass(frozen=True, eq=False)
class TradeOffView:
    """The rows of a trade-off, with a percentile of the chips' scores where that is requested."""

    result: TradeOff
    percent: float | None = None

    @property
    def against(self) -> str:
        """The cost that the front is of."""
        return self.result.against

    @functools.cached_property
    def scale(self) -> Scale:
        """The scale of the metric."""
        return next(Scale.of(each.sweep.judge) for each in self.result.measured if each.sweep is not None)

    @functools.cached_property
    def rows(self) -> list[TradeOffRow]:
        """In the order of the combinations."""
        rows = []
        for each, front in zip(self.result.measured, self.result.front, strict=True):
            computed = None if each.score is None else Estimate(*each.score)
            score = computed
            if computed is not None and computed.span is not None:
                score = Estimate(computed.value, *self.scale.judge.cut(*computed.span, computed.value))
            values, impossible = each.candidate.values, each.candidate.impossible
            energy, latency, area = map(each.cost_of, COSTS)
            found = None if self.percent is None else each.percentile(self.percent)
            low = None if found is None else Estimate(*found)
            rows.append(TradeOffRow(values, score, computed, energy, latency, area, front, impossible, low))
        return rows

    def _percentile(self, found: Estimate | None) -> dict[str, Any] | None:
        if found is None:
            return None
        return {"percent": self.percent, "value": found.value, "ci95": [found.low, found.high]}

    def as_dict(self) -> dict[str, Any]:
        """The rows as JSON, in SI units."""
        technology = self.result.technology
        return {
            "metric": self.scale.name,
            "technology": {"name": technology.name, "title": technology.title},
            "against": self.against,
            "combinations": [
                {
                    "values": dict(row.values),
                    "score": None if row.score is None else row.score.value,
                    "ci95": None
                    if row.computed is None or row.computed.span is None
                    else list(row.computed.span),
                    **{name: None if row.impossible else getattr(row, name) for name in COSTS},
                    "front": row.front,
                    "impossible": row.impossible or None,
                    **({} if self.percent is None else {"percentile": self._percentile(row.percentile)}),
                }
                for row in self.rows
            ],
            "notes": list(self.result.notes),
            "warnings": list(self.result.cautions),
        }
