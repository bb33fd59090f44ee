"""Monte Carlo over chips: scores, statistics, reports."""

from crossbar_sim.robustness.deploy import Deployment, deploy
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

__all__ = [
    "Deployment",
    "Interval",
    "Reference",
    "Score",
    "Summary",
    "Yield",
    "deploy",
    "mean_interval",
    "quantiles",
    "summarise",
    "wilson",
    "yield_at",
]
