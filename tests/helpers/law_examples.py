"""One example of every drift law, and for the statistical tests a second one that is slightly off."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from crossbar_sim import (
    ALL_DRIFTS,
    BernoulliDrift,
    GammaDrift,
    LaplaceDrift,
    LaplaceShift,
    LogNormalDrift,
    MeasuredRelaxation,
    NormalDrift,
    NormalShift,
    ParetoDrift,
    RelaxationShift,
    RetentionDrift,
    UniformDrift,
    UniformShift,
)
from crossbar_sim.crossbar.drift import DriftModel

ROOT3 = float(np.sqrt(3.0))


def lognormal(median: float, sigma: float) -> stats.rv_continuous:
    return stats.lognorm(s=sigma, scale=median)


def uniform(mean: float, sigma: float) -> stats.rv_continuous:
    return stats.uniform(loc=mean - ROOT3 * sigma, scale=2 * ROOT3 * sigma)


def laplace(mean: float, sigma: float) -> stats.rv_continuous:
    return stats.laplace(loc=mean, scale=sigma / np.sqrt(2.0))


def gamma(sigma: float) -> stats.rv_continuous:
    return stats.gamma(a=sigma**-2, scale=sigma**2)


def pareto(alpha: float) -> stats.rv_continuous:
    return stats.pareto(b=alpha, scale=1 - 1 / alpha)


class Example(NamedTuple):
    """A law, the distribution of g' from g = START, and wrong ones that a test must tell from it.

    Args:
        law: chosen so that the floor at 0 S is out of reach.
        truth: of g'.
        wrong: the same with each parameter off by 3 to 5 %.
        identity: the same law without effect.
    """

    law: DriftModel
    truth: stats.rv_continuous | None
    wrong: tuple[stats.rv_continuous, ...]
    identity: DriftModel | None


START = 1.0
"""Conductance of every cell in the statistical tests: in S for convenience, so that g' is the factor."""

_LN10 = float(np.log(10.0))

EXAMPLES = {
    LogNormalDrift: Example(
        LogNormalDrift(0.6),
        lognormal(1.0, 0.6),
        (lognormal(1.0, 0.63), lognormal(1.02, 0.6)),
        LogNormalDrift(0.0),
    ),
    NormalDrift: Example(
        NormalDrift(0.12),
        stats.norm(1.0, 0.12),
        (stats.norm(1.0, 0.126), stats.norm(1.004, 0.12)),
        NormalDrift(0.0),
    ),
    NormalShift: Example(
        NormalShift(0.12),
        stats.norm(1.0, 0.12),
        (stats.norm(1.0, 0.126), stats.norm(1.004, 0.12)),
        NormalShift(0.0),
    ),
    UniformDrift: Example(
        UniformDrift(0.3),
        uniform(1.0, 0.3),
        (uniform(1.0, 0.309), uniform(1.01, 0.3)),
        UniformDrift(0.0),
    ),
    UniformShift: Example(
        UniformShift(0.3),
        uniform(1.0, 0.3),
        (uniform(1.0, 0.309), uniform(1.01, 0.3)),
        UniformShift(0.0),
    ),
    LaplaceDrift: Example(
        LaplaceDrift(0.05),
        laplace(1.0, 0.05),
        (laplace(1.0, 0.0525), laplace(1.002, 0.05)),
        LaplaceDrift(0.0),
    ),
    LaplaceShift: Example(
        LaplaceShift(0.05),
        laplace(1.0, 0.05),
        (laplace(1.0, 0.0525), laplace(1.002, 0.05)),
        LaplaceShift(0.0),
    ),
    GammaDrift: Example(GammaDrift(0.8), gamma(0.8), (gamma(0.84), stats.norm(1.0, 0.8)), GammaDrift(0.0)),
    ParetoDrift: Example(ParetoDrift(3.0), pareto(3.0), (pareto(3.15),), None),
    BernoulliDrift: Example(BernoulliDrift(0.3), None, (), BernoulliDrift(0.0)),
    RetentionDrift: Example(
        RetentionDrift(0.1, time=1e4, nu_sigma=0.03),
        lognormal(1e4**-0.1, 0.03 * 4 * _LN10),
        (lognormal(1e4**-0.1, 0.0315 * 4 * _LN10), lognormal(1e4**-0.101, 0.03 * 4 * _LN10)),
        RetentionDrift(0.1, time=7.0, t0=7.0, nu_sigma=0.03),
    ),
    RelaxationShift: Example(
        RelaxationShift(time=1e3, mean_per_ln=-0.02, sigma=0.03, sigma_per_ln=0.005),
        stats.norm(1 - 0.06 * _LN10, 0.03 + 0.015 * _LN10),
        (
            stats.norm(1 - 0.06 * _LN10, 0.03 + 0.0165 * _LN10),
            stats.norm(1 - 0.0618 * _LN10, 0.03 + 0.015 * _LN10),
        ),
        RelaxationShift(time=1.0, mean_per_ln=-0.02, sigma=0.0, sigma_per_ln=0.005),
    ),
    MeasuredRelaxation: Example(  # at g = 1 the polynomials are -0.02, 0.05 and 0.005
        MeasuredRelaxation(1e3, 2.0, (0.01, -0.06), (0.02, 0.05, 0.02), (-0.005, 0.02)),
        stats.norm(1 - 0.06 * _LN10, 0.05 + 0.015 * _LN10),
        (
            stats.norm(1 - 0.06 * _LN10, 0.0525 + 0.01575 * _LN10),
            stats.norm(1 - 0.0618 * _LN10, 0.05 + 0.015 * _LN10),
        ),
        MeasuredRelaxation(1.0, 2.0, (0.01, -0.06), (0.0,), (-0.005, 0.02)),
    ),
}

WITH_SPREAD: dict[type[DriftModel], Callable[[float], DriftModel]] = {
    LogNormalDrift: LogNormalDrift,
    NormalDrift: NormalDrift,
    NormalShift: NormalShift,
    UniformDrift: UniformDrift,
    UniformShift: UniformShift,
    LaplaceDrift: LaplaceDrift,
    LaplaceShift: LaplaceShift,
    GammaDrift: GammaDrift,
    RetentionDrift: lambda sigma: RetentionDrift(0.0, time=float(np.e), nu_sigma=sigma),
    RelaxationShift: lambda sigma: RelaxationShift(10.0, 0.0, sigma, 0.0),
    MeasuredRelaxation: lambda sigma: MeasuredRelaxation(10.0, 1.0, (0.0,), (sigma,), (0.0,)),
}
"""The laws with one spread, as functions of it."""

LAWS = [EXAMPLES[law].law for law in ALL_DRIFTS]
"""In the order of ALL_DRIFTS; a law without an example is a KeyError: write one."""

KINDS = [law.kind for law in LAWS]
