"""Robust estimation of the parameters of programming noise and drift laws."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from crossbar_sim.crossbar.device_fit.measurements import LEAST_ROWS, Float64, Measurements

# Robust joint estimation of mean and spread: outliers have bounded influence.
#
# The estimate minimises sum_i rho(u_i)/beta + ln s_i with u_i = (y_i - mu_i)/s_i and Student's t loss
# rho(u) = (nu + 1)/2 ln(1 + u^2/nu). A row far out has bounded influence on mean and spread. beta = E[rho'(z) z]
# over a standard normal z makes the estimate consistent for normal errors (Huber and Ronchetti, Robust Statistics,
# 2nd ed., 2009). That objective is the likelihood of a t distribution with (nu + 1)/beta - 1 degrees of freedom, whose
# distribution function serves for readings at 0 S, where the value is cut off (Tobin, Econometrica 26, 24, 1958).
# Intervals are those of the sandwich A^-1 B A^-1 (Huber and Ronchetti), where B is summed over cells, not rows,
# if cells are given: readings of one cell share its programming error.


NU = 5.0
_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(101)
BETA = float(_WEIGHTS @ ((NU + 1) * _POINTS**2 / (NU + _POINTS**2)) / _WEIGHTS.sum())
FREEDOM = (NU + 1) / BETA - 1
"""Degrees of freedom of the t distribution whose likelihood is the loss."""

_CHI = (NU + 1) / BETA * _POINTS**2 / (NU + _POINTS**2) - 1
_SLOPE = (NU + 1) / BETA * 2 * NU * _POINTS**2 / (NU + _POINTS**2) ** 2
SPREAD_ERROR = float(np.sqrt(_WEIGHTS @ _CHI**2 * _WEIGHTS.sum()) / (_WEIGHTS @ _SLOPE))
"""Standard error of ln `spread_of` of n normal numbers, times sqrt(n): 0.707 would be the least."""


class Moments(NamedTuple):
    """Mean and spread of every row, (n,), and their derivatives by the parameters, (n, p)."""

    mean: Float64
    spread: Float64
    by_mean: Float64
    by_spread: Float64


Model = Callable[[Float64], Moments]


class Estimate(NamedTuple):
    """Parameters (p,), their covariance (p, p), twice the objective at them, and whether it is a minimum.

    `plain` is the covariance if rows were independent and the objective a likelihood, (p, p).
    """

    parameters: Float64
    covariance: Float64
    objective: float
    converged: bool
    plain: Float64


def spread_of(u: Float64) -> float:
    """Robust spread about the median, consistent for normal numbers."""
    v = u - np.median(u)
    s = 1.4826 * float(np.median(np.abs(v))) or float(v.std())
    for _ in range(50 if s > 0 else 0):
        square = (v / s) ** 2
        s *= float(np.sqrt(np.mean((NU + 1) / BETA * square / (NU + square))))
    return s


def scores(y: Float64, cut: NDArray[np.bool_], at: Moments) -> tuple[Float64, Float64]:
    """The objective of each row (n,) and its derivatives (n, p)."""
    u = (y - at.mean) / at.spread
    psi = (NU + 1) / BETA * u / (NU + u * u)
    values = (NU + 1) / (2 * BETA) * np.log1p(u * u / NU) + np.log(at.spread)
    free = np.ones_like(u)
    if cut.any():  # only that the value lies at or below y is known
        stretch = np.sqrt(FREEDOM / NU)
        below = stats.t.logcdf(u[cut] * stretch, FREEDOM)
        values[cut], free[cut] = -below, 0.0
        psi[cut] = -np.exp(stats.t.logpdf(u[cut] * stretch, FREEDOM) - below) * stretch
    by = (-psi / at.spread)[:, None] * at.by_mean + ((free - psi * u) / at.spread)[:, None] * at.by_spread
    return values, by


@np.errstate(divide="ignore", invalid="ignore")  # a spread that goes to 0; checked at the end
def estimate(
    y: Float64,
    model: Model,
    start: Float64,
    cells: NDArray[np.int64] | None = None,
    cut: NDArray[np.bool_] | None = None,
) -> Estimate:
    """Fit the model.

    Args:
        y: observations, (n,), of order one.
        model: parameters (p,), of order one, to moments.
        start: parameters to begin with, (p,).
        cells: rows with one number are not independent, (n,); None: all are.
        cut: rows whose value is y or anything below, (n,); None: none.
    """
    at_most = np.zeros(y.shape, np.bool_) if cut is None else cut

    def objective(theta: Float64) -> tuple[float, Float64]:
        values, by = scores(y, at_most, model(theta))
        return float(values.mean()), by.mean(axis=0)

    found = optimize.minimize(
        objective, start, jac=True, method="BFGS", options={"gtol": 1e-8, "maxiter": 400}
    )
    theta = np.asarray(found.x, np.float64)
    value, gradient = objective(theta)
    curvature = _hessian(lambda at: objective(at)[1], theta)
    if not (np.isfinite(curvature).all() and np.isfinite(gradient).all()):
        # without scatter the spread goes to 0 and the covariance is unknown
        nothing = np.full((theta.size, theta.size), np.inf)
        return Estimate(theta, nothing, 2 * y.size * value, False, nothing)
    _, by = scores(y, at_most, model(theta))
    if cells is not None:
        sums = np.zeros((int(cells.max()) + 1, theta.size))
        np.add.at(sums, cells, by)
        by = sums
    # A parameter without influence has an infinite interval, but the pseudo-inverse gives 0: such a
    # direction is looked for and its variance set to infinity.
    eigenvalues, vectors = np.linalg.eigh(curvature)
    solid = eigenvalues > 1e-7 * max(float(np.abs(eigenvalues).max()), 1e-30)
    inverse = (vectors[:, solid] / eigenvalues[solid]) @ vectors[:, solid].T / y.size
    covariance = inverse @ (by.T @ by) @ inverse
    loose = np.abs(vectors[:, ~solid]).max(axis=1, initial=0.0) > 1e-3
    covariance[loose, loose] = np.inf
    settled = bool(np.abs(gradient).max() < 1e-4 and solid.all())
    return Estimate(theta, covariance, 2 * y.size * value, settled, inverse)


@np.errstate(divide="ignore", invalid="ignore")
def resampled(
    y: Float64,
    model: Model,
    start: Float64,
    cells: NDArray[np.int64],
    counts: NDArray[np.int64],
    cut: NDArray[np.bool_] | None = None,
) -> Float64:
    """The estimates of bootstrap samples of cells (Efron and Tibshirani, 1993), (samples, p).

    For parameters that make up for each other: there the objective is no parabola, and its curvature at the
    estimate says little of how far they may be off.

    Args:
        y, model, start, cut: as for `estimate`.
        cells: the number of each row's cell, (n,).
        counts: how often each cell is in each sample, (samples, cells).
    """
    at_most = np.zeros(y.shape, np.bool_) if cut is None else cut
    out = np.empty((len(counts), start.size))
    for i, count in enumerate(counts):
        weights = count[cells] / y.size

        def objective(theta: Float64, weights: Float64 = weights) -> tuple[float, Float64]:
            values, by = scores(y, at_most, model(theta))
            return float(weights @ values), weights @ by

        out[i] = optimize.minimize(
            objective, start, jac=True, method="BFGS", options={"gtol": 1e-5, "maxiter": 60}
        ).x
    return out


def _hessian(gradient: Callable[[Float64], Float64], theta: Float64) -> Float64:
    """Central differences of the gradient, made symmetric."""
    p = theta.size
    out = np.empty((p, p))
    for i in range(p):
        step = np.zeros(p)
        step[i] = 1e-4 * max(1.0, abs(theta[i]))
        out[i] = (gradient(theta + step) - gradient(theta - step)) / (2 * step[i])
    return (out + out.T) / 2


# Mean and spread of a reading under each law, with derivatives: what `robust.estimate` fits.
#
# Everything is in units of `Scales`, where parameters are of order one. Rows before a law begins count as just
# programmed. With f = (t/t0)^-nu,
#
# | law | mean error | variance |
# |---|---|---|
# | none | mu(g) | sigma(g)^2 |
# | relaxation, Eq. (16) | mu(g) + m ln t | sigma(g)^2 + (s + q ln t)^2 |
# | measured_relaxation, Eq. (16b) | mu(g) + m(g) ln t | sigma(g)^2 + (s(g) + q(g) ln t)^2 |
# | retention, Eq. (15) | (g + mu(g)) f - g | (sigma(g) f)^2 + (nu_sigma ln(t/t0) (g + mu(g)) f)^2 |


LAWS = ("none", "relaxation", "retention", "measured_relaxation")
RELAXATIONS = ("relaxation", "measured_relaxation")
FLOOR = 0.02
"""Lower bound of a spread in the fit, as a fraction of the typical one."""


class Scales(NamedTuple):
    """Units of the fit in S: `g` of conductances in polynomials, `error` of errors."""

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
    """Whether the times allow a relaxation's s to be separated from the programming error and from q.

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
    spread = (linear + root) / 2  # a smooth max(linear, 0) that is always above 0
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
        kept = np.exp(np.clip(-nu * log, -50, 50))  # a step of the search may leave the valid range
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
    """Unit of each parameter: S, and 1 for exponents."""
    polynomials = np.full(form.mean + form.spread, scales.error)
    exponents = np.full(2, _order(scales))
    own = exponents if form.law == "retention" else np.full(len(form.names) - polynomials.size, scales.error)
    return np.concatenate([polynomials, own])
