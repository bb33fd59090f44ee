"""Fitting a mean and a spread together, so that a few wild rows do not decide.

The estimate minimises sum_i rho(u_i)/beta + ln s_i with u_i = (y_i - mu_i)/s_i and Student's t loss
rho(u) = (nu + 1)/2 ln(1 + u^2/nu). A row far out has bounded influence on mean and spread. beta = E[rho'(z) z] over
a standard normal z makes the estimate consistent for normal errors (Huber and Ronchetti, Robust Statistics, 2nd ed.,
2009). That objective is the likelihood of a t distribution with (nu + 1)/beta - 1 degrees of freedom, whose
distribution function serves for readings at 0 S, where the value is cut off (Tobin, Econometrica 26, 24, 1958).
Intervals are those of the sandwich A^-1 B A^-1 (Huber and Ronchetti), where B is summed over cells, not rows, if rows
tell their cells: readings of one cell share its programming error.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Float64 = NDArray[np.float64]

NU = 5.0
_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(101)
BETA = float(_WEIGHTS @ ((NU + 1) * _POINTS**2 / (NU + _POINTS**2)) / _WEIGHTS.sum())
FREEDOM = (NU + 1) / BETA - 1
"""Degrees of freedom of the t distribution that the loss is the likelihood of."""

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
    """The spread about the median that the loss gives: that of normal numbers, whatever a few wild ones do."""
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


@np.errstate(divide="ignore", invalid="ignore")  # of a spread that runs off to 0, which is seen at the end
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
        # without any scatter the spread runs off to 0: nothing is known of how far the parameters are off
        nothing = np.full((theta.size, theta.size), np.inf)
        return Estimate(theta, nothing, 2 * y.size * value, False, nothing)
    _, by = scores(y, at_most, model(theta))
    if cells is not None:
        sums = np.zeros((int(cells.max()) + 1, theta.size))
        np.add.at(sums, cells, by)
        by = sums
    # A parameter that nothing depends on would have an infinite interval: the pseudo-inverse gives 0, so the
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
