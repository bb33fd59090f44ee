"""Mean and spread of a reading under each law, with derivatives: what `robust.estimate` fits.

Everything is in units of `Scales`, where parameters are of order one. Rows before a law begins count as just
programmed. With f = (t/t0)^-nu,

| law | mean error | variance |
|---|---|---|
| none | mu(g) | sigma(g)^2 |
| relaxation, Eq. (16) | mu(g) + m ln t | sigma(g)^2 + (s + q ln t)^2 |
| measured_relaxation, Eq. (16b) | mu(g) + m(g) ln t | sigma(g)^2 + (s(g) + q(g) ln t)^2 |
| retention, Eq. (15) | (g + mu(g)) f - g | (sigma(g) f)^2 + (nu_sigma ln(t/t0) (g + mu(g)) f)^2 |
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from crossbar_sim.crossbar.device_fit.measurements import LEAST_ROWS, Float64, Measurements
from crossbar_sim.crossbar.device_fit.robust import Moments

LAWS = ("none", "relaxation", "retention", "measured_relaxation")
RELAXATIONS = ("relaxation", "measured_relaxation")
FLOOR = 0.02
"""Where a spread would be 0 or less, the fit sees this part of the typical one."""


class Scales(NamedTuple):
    """What one unit of the fit is: `g` of conductances in polynomials, `error` of errors, both in S."""

    g: float
    error: float


@dataclass(frozen=True)
class Form:
    """Which law, and how many coefficients of each polynomial.

    Args:
        law: one of `LAWS`.
        mean, spread: of mu and sigma.
        relaxed_at_once: whether the relaxation's s is a parameter, see `separable`.
        drift_mean, drift_spread: of m, and of s and q; 1 but for measured_relaxation.
    """

    law: str
    mean: int
    spread: int
    relaxed_at_once: bool = False
    drift_mean: int = 1
    drift_spread: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters in their order, as the design has them."""
        names = [f"programming.mean[{k}]" for k in range(self.mean)]
        names += [f"programming.coefficients[{k}]" for k in range(self.spread)]
        if self.law == "relaxation":
            names += ["drift.mean_per_ln", *["drift.sigma"] * self.relaxed_at_once, "drift.sigma_per_ln"]
        elif self.law == "retention":
            names += ["drift.nu", "drift.nu_sigma"]
        elif self.law == "measured_relaxation":
            names += [f"drift.mean_per_ln[{k}]" for k in range(self.drift_mean)]
            names += [f"drift.spread[{k}]" for k in range(self.drift_spread * self.relaxed_at_once)]
            names += [f"drift.spread_per_ln[{k}]" for k in range(self.drift_spread)]
        return tuple(names)


def separable(data: Measurements) -> bool:
    """Whether the times tell a relaxation's s from the programming error and from q.

    The variance is sigma^2 + (s + q ln t)^2: three numbers of the times after 1 s, or two of them and the
    variance before. Times closer than 5 % count as one.
    """
    late = np.unique(np.round(np.log(data.time[data.time >= 1.0]), 1)).size
    return late >= 3 or (late >= 2 and early(data))


def early(data: Measurements) -> bool:
    """Whether there are readings before a relaxation begins."""
    return bool(np.count_nonzero(data.time < 1.0) >= LEAST_ROWS)


def begins(law: str, data: Measurements) -> float:
    """The time in s up to which a reading counts as just programmed: t0 of a retention law."""
    if law in RELAXATIONS:
        return 1.0
    later = data.time[data.time > 0]
    return float(later.min()) if later.size else 1.0


def logarithm(law: str, data: Measurements) -> Float64:
    """ln(t/t0) of every row, 0 before the law begins."""
    first = begins(law, data)
    return np.log(np.maximum(data.time, first) / first)


def moments(form: Form, data: Measurements, scales: Scales, theta: Float64) -> Moments:
    """Mean error and spread of every row, in units of `scales.error`."""
    n, p = data.target.size, theta.size
    a, c, own = np.split(theta, [form.mean, form.mean + form.spread])
    most = max(form.mean, form.spread, form.drift_mean, form.drift_spread)
    powers = np.power.outer(data.target / scales.g, np.arange(most))
    by_mean, by_spread = np.zeros((n, p)), np.zeros((n, p))
    mean = powers[:, : form.mean] @ a
    by_mean[:, : form.mean] = powers[:, : form.mean]
    linear = powers[:, : form.spread] @ c
    root = np.sqrt(linear**2 + FLOOR**2)
    spread = (linear + root) / 2  # a smooth max(linear, 0) that never is 0
    by_spread[:, form.mean : form.mean + form.spread] = (
        powers[:, : form.spread] * ((1 + linear / root) / 2)[:, None]
    )
    if form.law in RELAXATIONS:
        log, late = logarithm(form.law, data), (data.time >= 1.0).astype(np.float64)
        split = p - own.size + form.drift_mean
        of_mean = powers[:, : form.drift_mean] * log[:, None]
        times = [late, log] if form.relaxed_at_once else [log]
        of_spread = np.hstack([powers[:, : form.drift_spread] * time[:, None] for time in times])
        mean = mean + of_mean @ own[: form.drift_mean]
        by_mean[:, p - own.size : split] = of_mean
        extra = of_spread @ own[form.drift_mean :]
        by_spread[:, :split] *= spread[:, None]
        by_spread[:, split:] = of_spread * extra[:, None]
        spread = np.sqrt(spread**2 + extra**2)
        by_spread /= spread[:, None]
    elif form.law == "retention":
        log, g = logarithm(form.law, data), data.target / scales.error
        nu, nu_sigma = own * _order(scales)
        kept = np.exp(np.clip(-nu * log, -50, 50))  # a step of the search may go anywhere
        left = (g + mean) * kept
        own_spread, extra = spread * kept, nu_sigma * log * left
        total = np.sqrt(own_spread**2 + extra**2)
        d = np.zeros((n, p))  # of total^2 / 2
        d[:, :-2] = by_spread[:, :-2] * (kept * own_spread)[:, None]
        d[:, :-2] += by_mean[:, :-2] * (kept * extra * nu_sigma * log)[:, None]
        d[:, -2] = -log * total**2 * _order(scales)
        d[:, -1] = extra * log * left * _order(scales)
        by_mean[:, :-2] *= kept[:, None]
        by_mean[:, -2] = -log * left * _order(scales)
        mean, spread, by_spread = left - g, total, d / total[:, None]
    return Moments(mean, spread, by_mean, by_spread)


def _order(scales: Scales) -> float:
    """An exponent of one unit: it moves the largest conductance by one unit of error for each e-fold of time."""
    return scales.error / scales.g


def in_units(form: Form, scales: Scales) -> Float64:
    """What one unit of each parameter is: S, and 1 for exponents."""
    polynomials = np.full(form.mean + form.spread, scales.error)
    exponents = np.full(2, _order(scales))
    own = exponents if form.law == "retention" else np.full(len(form.names) - polynomials.size, scales.error)
    return np.concatenate([polynomials, own])
