"""Drift laws: what time does to a programmed conductance. Multiplicative ones end in Drift, additive in Shift.

| law | equation | parameter | file |
|---|---|---|---|
| LogNormalDrift | g exp(sigma z) | sigma of ln g | here |
| RetentionDrift | g (t/t0)^-(nu + sigma_nu z) | nu, sigma_nu; t and t0 in s | here |
| RelaxationShift | g + mu(t) + sigma(t) z | mu, sigma in S, linear in ln t | here |
| MeasuredRelaxation | the same, with mu and sigma polynomials of g | their coefficients in S | here |
| NormalDrift, UniformDrift, LaplaceDrift | g (1 + sigma d), d of mean 0 and variance 1 | sigma, a fraction of g | drift_spread |
| NormalShift, UniformShift, LaplaceShift | g + sigma d | sigma in S | drift_spread |
| GammaDrift | g x, x gamma of mean 1 | sigma of x, a fraction | drift_factors |
| ParetoDrift | g x, x Pareto of mean 1 | tail index alpha | drift_factors |
| BernoulliDrift | g or 0 | probability of 0 | drift_factors |

A law is a frozen dataclass with `apply`. No law lets a conductance fall below 0 S. To add one, see CONTRIBUTING.
"""  # noqa: E501 - a table

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from crossbar_sim.crossbar import kernels
from crossbar_sim.crossbar.checks import SINGLE, number, require
from crossbar_sim.crossbar.devices import polynomial
from crossbar_sim.crossbar.drift_factors import BernoulliDrift, GammaDrift, ParetoDrift
from crossbar_sim.crossbar.drift_spread import (
    LaplaceDrift,
    LaplaceShift,
    NormalDrift,
    NormalShift,
    UniformDrift,
    UniformShift,
)
from crossbar_sim.crossbar.law import Law
from crossbar_sim.crossbar.stream import Float32, Stream


def split(rate: float) -> tuple[np.float32, np.float32]:
    """A float64 as the sum of two float32, for `exp2`."""
    high = np.float32(rate)
    return high, np.float32(rate - float(high))


@dataclass(frozen=True)
class LogNormalDrift(Law):
    """Eq. (8): g' = g exp(lambda), lambda ~ N(0, sigma^2). Eq. (1) of BayesFT, DAC 2021.

    Raises:
        InputError: unless 0 <= sigma <= 12 (a factor of e^81 at the end of the normal's range).
    """

    sigma: float
    kind: ClassVar[str] = "lognormal"

    def __post_init__(self) -> None:
        number(self, "sigma", "sigma of ln g must lie in 0 .. 12", 0, 12)

    @property
    def rates(self) -> tuple[np.float32, np.float32, np.float32]:
        """(factor, high, low): g' = factor g 2^((high + low) z)."""
        return np.float32(1.0), *split(self.sigma * math.log2(math.e))

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `Law`."""
        kernels.lognormal(g, out, *self.rates, start, *stream.name)


@dataclass(frozen=True)
class RetentionDrift(Law):
    """Eq. (15): g' = g (t/t0)^-(nu + nu_sigma z), a power law with a spread in its exponent.

    Args:
        nu: mean exponent (0.1 in Boybat et al. 2018 for PCM; positive means loss).
        time, t0: seconds since programming, and the time at which g was read as programmed.
        nu_sigma: standard deviation of the exponent between cells.

    Raises:
        InputError: unless time > 0, t0 > 0, nu_sigma >= 0 and the change stays below 2^120.
    """

    nu: float
    time: float
    t0: float = 1.0
    nu_sigma: float = 0.0
    kind: ClassVar[str] = "retention"

    def __post_init__(self) -> None:
        number(self, "time", "seconds since programming must be above 0 s", above=0)
        number(self, "t0", "the reference time must be above 0 s", above=0)
        number(self, "nu", "an exponent is a finite number")
        number(self, "nu_sigma", "the spread of an exponent must be at least 0", 0)
        octaves = abs(math.log2(self.time) - math.log2(self.t0))
        require(
            octaves * (abs(self.nu) + 6.8 * self.nu_sigma) <= 120,
            f"nu={self.nu}, nu_sigma={self.nu_sigma}, time={self.time} s: "
            "changes must stay below a factor of 2^120",
        )

    @property
    def rates(self) -> tuple[np.float32, np.float32, np.float32]:
        """(factor, high, low): g' = factor g 2^((high + low) z)."""
        octaves = math.log2(self.time) - math.log2(self.t0)  # the quotient may leave double precision
        return np.float32(2.0 ** (-self.nu * octaves)), *split(-self.nu_sigma * octaves)

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `Law`."""
        kernels.lognormal(g, out, *self.rates, start, *stream.name)


@dataclass(frozen=True)
class RelaxationShift(Law):
    """Eq. (16): g' = max(g + mean_per_ln ln t + (sigma + sigma_per_ln ln t) z, 0), in S, t in s.

    Relaxation of programmed oxide cells, independent of g: Falcone et al. 2025, arXiv:2502.04524.

    Raises:
        InputError: unless time >= 1 s and the spread at that time is at least 0 S.
    """

    time: float
    mean_per_ln: float
    sigma: float
    sigma_per_ln: float
    kind: ClassVar[str] = "relaxation"
    multiplicative: ClassVar[bool] = False

    def __post_init__(self) -> None:
        number(self, "time", "the fit holds from 1 s on", 1)
        for name in ("mean_per_ln", "sigma", "sigma_per_ln"):
            number(self, name, "must be a finite number of S, not above 1e26 S", -1e26, 1e26)
        require(
            0 <= self.spread <= SINGLE,
            f"sigma={self.sigma} S, sigma_per_ln={self.sigma_per_ln} S: the spread at "
            f"time={self.time} s, {self.spread} S, must be at least 0 S",
        )

    @property
    def mean(self) -> float:
        """Mean shift at `time`, in S."""
        return self.mean_per_ln * math.log(self.time)

    @property
    def spread(self) -> float:
        """Standard deviation of the shift at `time`, in S."""
        return self.sigma + self.sigma_per_ln * math.log(self.time)

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `Law`."""
        z = stream.normals(g.size, start)
        kernels.shift(g, z, np.float32(self.mean), np.float32(self.spread), out)


@dataclass(frozen=True)
class MeasuredRelaxation(Law):
    """Eq. (16b): g' = max(g + m(g) ln t + |s(g) + q(g) ln t| z, 0), polynomials of g / reference, in S, t in s.

    A relaxation whose mean and spread depend on the conductance, as `fit-device` finds it.

    Args:
        time: seconds since programming, at least 1.
        reference: the conductance in S that the polynomials divide by.
        mean_per_ln: coefficients of m in S, lowest power first.
        spread, spread_per_ln: those of s and q.

    Raises:
        InputError: unless time >= 1 s, every list has 1 .. 16 finite numbers of S, and reference lies in
            1e-30 .. 1e30 S.
    """

    time: float
    reference: float
    mean_per_ln: tuple[float, ...]
    spread: tuple[float, ...]
    spread_per_ln: tuple[float, ...]
    kind: ClassVar[str] = "measured_relaxation"
    multiplicative: ClassVar[bool] = False

    def __post_init__(self) -> None:
        number(self, "time", "the fit holds from 1 s on", 1)
        rule = "the conductance that the polynomials divide by must lie in 1e-30 .. 1e30 S"
        number(self, "reference", rule, 1 / SINGLE, SINGLE)
        for name in ("mean_per_ln", "spread", "spread_per_ln"):
            polynomial(self, name, 1e26)

    @property
    def at_time(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Coefficients of the shift's mean and of its spread (of either sign) at `time`, in S."""
        log = math.log(self.time)
        n = max(len(self.spread), len(self.spread_per_ln))
        s, q = ((*c, *[0.0] * (n - len(c))) for c in (self.spread, self.spread_per_ln))
        return tuple(c * log for c in self.mean_per_ln), tuple(a + b * log for a, b in zip(s, q, strict=True))

    def mu(self, g: float) -> float:
        """Mean shift at `time` of a cell of conductance `g`, both in S."""
        return sum(c * (g / self.reference) ** k for k, c in enumerate(self.at_time[0]))

    def sigma(self, g: float) -> float:
        """Standard deviation of the shift at `time` of a cell of conductance `g`, both in S."""
        return abs(sum(c * (g / self.reference) ** k for k, c in enumerate(self.at_time[1])))

    def bound(self, g: float) -> float:
        """No term of mean or spread at conductances up to `g` (S) exceeds this, in S; it may be infinite."""
        try:
            return max(
                abs(c) * (g / self.reference) ** k for part in self.at_time for k, c in enumerate(part)
            )
        except OverflowError:
            return math.inf

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `Law`."""
        mean, spread = (np.array(c, np.float32) for c in self.at_time)
        z = stream.normals(g.size, start)
        kernels.relax(g, z, mean, spread, np.float32(1 / self.reference), out)


ALL_DRIFTS: tuple[type[Law], ...] = (
    LogNormalDrift, NormalDrift, NormalShift, UniformDrift, UniformShift, LaplaceDrift,
    LaplaceShift, GammaDrift, ParetoDrift, BernoulliDrift, RetentionDrift, RelaxationShift, MeasuredRelaxation,
)  # fmt: skip
"""Every law: drives the tests, the configuration files and the help."""
