"""Monte Carlo over chips: scores, statistics, sweeps, reports."""

from crossbar_sim.robustness.benchmark import PROTOCOL, robustness
from crossbar_sim.robustness.comparisons import Paired, holm, paired
from crossbar_sim.robustness.curves import Crossing, area, crossing
from crossbar_sim.robustness.deploy import Deployment, deploy
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.score import Reference, Score
from crossbar_sim.robustness.statistics import (
    Interval,
    Summary,
    Yield,
    mean_interval,
    quantiles,
    summarise,
    wilson,
    yield_at,
)
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.robustness.validation import Validation

__all__ = [
    "PROTOCOL",
    "Crossing",
    "Deployment",
    "Interval",
    "Paired",
    "Point",
    "Reference",
    "Score",
    "Summary",
    "Sweep",
    "Validation",
    "Yield",
    "area",
    "crossing",
    "deploy",
    "holm",
    "mean_interval",
    "paired",
    "quantiles",
    "robustness",
    "summarise",
    "wilson",
    "yield_at",
]
