"""Drift laws: what time does to a programmed conductance. Multiplicative ones end in Drift, additive in Shift.

| law | equation | parameter |
|---|---|---|
| LogNormalDrift | g exp(sigma z) | sigma of ln g |
| NormalDrift, UniformDrift, LaplaceDrift | g (1 + sigma d), d of mean 0 and variance 1 | sigma, a fraction of g |
| NormalShift, UniformShift, LaplaceShift | g + sigma d | sigma in S |
| GammaDrift | g x, x gamma of mean 1 | sigma of x, a fraction |
| ParetoDrift | g x, x Pareto of mean 1 | tail index alpha |
| BernoulliDrift | g or 0 | probability of 0 |
| RetentionDrift | g (t/t0)^-(nu + sigma_nu z) | nu, sigma_nu; t and t0 in s |
| RelaxationShift | g + mu(t) + sigma(t) z | mu, sigma in S, linear in ln t |

A law is a frozen dataclass with `apply`. No law lets a conductance fall below 0 S. To add one, see CONTRIBUTING.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import interpolate, special

from crossbar_sim.crossbar import kernels
from crossbar_sim.crossbar.checks import finite, require
from crossbar_sim.crossbar.law import Law
from crossbar_sim.crossbar.stream import Float32, Stream


def split(rate: float) -> tuple[np.float32, np.float32]:
    """A float64 as the sum of two float32, for `exp2`."""
    high = np.float32(rate)
    return high, np.float32(rate - float(high))


@dataclass(frozen=True)
class LogNormalDrift(Law):
    """Eq. (8): g' = g exp(lambda), lambda ~ N(0, sigma^2). Eq. (1) of Ye et al. (BayesFT), DAC 2021.

    Raises:
        InputError: unless 0 <= sigma <= 12 (a factor of e^81 at the end of the normal's range).
    """

    sigma: float
    kind: ClassVar[str] = "lognormal"

    def __post_init__(self) -> None:
        require(finite(self.sigma) and 0 <= self.sigma <= 12, f"sigma={self.sigma} of ln g must lie in 0 .. 12")

    @property
    def rates(self) -> tuple[np.float32, np.float32, np.float32]:
        """(factor, high, low): g' = factor g 2^((high + low) z)."""
        return np.float32(1.0), *split(self.sigma * math.log2(math.e))

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `Law`."""
        kernels.lognormal(g, out, *self.rates, start, *stream.name)


@dataclass(frozen=True)
class _Spread(Law):
    """Laws with one spread, standardised draws and the choice between a factor and a term."""

    sigma: float

    def __post_init__(self) -> None:
        unit = "a fraction of g" if self.multiplicative else "in S"
        require(finite(self.sigma) and self.sigma >= 0, f"sigma={self.sigma}, {unit}, must be at least 0")

    def draws(self, n: int, stream: Stream, start: int) -> Float32:
        """Draws of mean 0 and variance 1, shape (n,)."""
        raise NotImplementedError

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `Law`."""
        d = self.draws(g.size, stream, start)
        if self.multiplicative:
            kernels.multiply(g, d, np.float32(self.sigma), out)
        else:
            kernels.shift(g, d, np.float32(0.0), np.float32(self.sigma), out)


class _Normal(_Spread):
    def draws(self, n: int, stream: Stream, start: int) -> Float32:
        return stream.normals(n, start)


class _Uniform(_Spread):
    def draws(self, n: int, stream: Stream, start: int) -> Float32:
        out = np.empty(n, np.float32)
        kernels.symmetric_uniform(stream.words(n, start), out)
        return out


class _Laplace(_Spread):
    def draws(self, n: int, stream: Stream, start: int) -> Float32:
        out = np.empty(n, np.float32)
        kernels.laplace(stream.words(n, start), out)
        return out


@dataclass(frozen=True)
class NormalDrift(_Normal):
    """Eq. (9): g' = max(g (1 + sigma z), 0), z standard normal."""

    kind: ClassVar[str] = "normal"


@dataclass(frozen=True)
class NormalShift(_Normal):
    """Eq. (10): g' = max(g + sigma z, 0), sigma in S, z standard normal."""

    kind: ClassVar[str] = "normal_shift"
    multiplicative: ClassVar[bool] = False


@dataclass(frozen=True)
class UniformDrift(_Uniform):
    """Eq. (9) with d uniform of variance 1: g' within a factor 1 +- sigma sqrt 3, never below 0."""

    kind: ClassVar[str] = "uniform"


@dataclass(frozen=True)
class UniformShift(_Uniform):
    """Eq. (10) with d uniform of variance 1, sigma in S."""

    kind: ClassVar[str] = "uniform_shift"
    multiplicative: ClassVar[bool] = False


@dataclass(frozen=True)
class LaplaceDrift(_Laplace):
    """Eq. (9) with d Laplace of variance 1."""

    kind: ClassVar[str] = "laplace"


@dataclass(frozen=True)
class LaplaceShift(_Laplace):
    """Eq. (10) with d Laplace of variance 1, sigma in S."""

    kind: ClassVar[str] = "laplace_shift"
    multiplicative: ClassVar[bool] = False


@dataclass(frozen=True)
class GammaDrift(Law):
    """Eq. (12): g' = g x, x gamma-distributed with mean 1 and standard deviation sigma (shape 1/sigma^2).

    x is the gamma quantile of the normal's probability, so that chip i moves the same way at every sigma;
    log2 of the quantile is tabulated as a cubic spline (relative error below 1e-5, tested against SciPy).

    Raises:
        InputError: unless 0 <= sigma <= 3.
    """

    sigma: float
    kind: ClassVar[str] = "gamma"
    Z: ClassVar[float] = 6.8  # |z| <= 6.77
    PIECES: ClassVar[int] = 2048

    def __post_init__(self) -> None:
        require(
            finite(self.sigma) and 0 <= self.sigma <= 3,
            f"sigma={self.sigma} of a gamma factor must lie in 0 .. 3",
        )

    def table(self) -> Float32:
        """Coefficients of log2 x on equal pieces of [-Z, Z], shape (PIECES, 4), lowest power first."""
        z = np.linspace(-self.Z, self.Z, self.PIECES + 1)
        if self.sigma < 1e-3:  # the gamma law is normal there to the last float32 place
            q = np.log2(1.0 + self.sigma * z)
        else:
            shape = self.sigma**-2
            tail = special.ndtr(-np.abs(z))
            x = np.where(z < 0, special.gammaincinv(shape, tail), special.gammainccinv(shape, tail))
            q = np.log2(np.maximum(x / shape, 2.0**-120))
        step = 2 * self.Z / self.PIECES
        powers = interpolate.CubicSpline(z, q).c[::-1].T * step ** np.arange(4)
        return np.ascontiguousarray(powers, np.float32)

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `Law`."""
        table = _gamma_table(self)
        per_unit = np.float32(self.PIECES / (2 * self.Z))
        z = stream.normals(g.size, start)
        kernels.by_quantile(g, z, table, np.float32(-self.Z), per_unit, out)


_TABLES: dict[GammaDrift, Float32] = {}


def _gamma_table(law: GammaDrift) -> Float32:
    """The law's table, computed once per process."""
    if law not in _TABLES:
        _TABLES[law] = law.table().ravel()
    return _TABLES[law]


@dataclass(frozen=True)
class ParetoDrift(Law):
    """Eq. (13): g' = g x, x Pareto with tail index alpha, scaled to mean 1: x = (1 - 1/alpha) u^(-1/alpha).

    Raises:
        InputError: unless alpha > 1 (the mean is infinite below).
    """

    alpha: float
    kind: ClassVar[str] = "pareto"

    def __post_init__(self) -> None:
        require(
            finite(self.alpha) and self.alpha > 1,
            f"alpha={self.alpha}: a Pareto factor has a mean only for a tail index above 1",
        )

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `Law`."""
        least, half_rate = np.float32(1 - 1 / self.alpha), np.float32(math.log2(math.e) / (2 * self.alpha))
        kernels.pareto(g, stream.words(g.size, start), least, half_rate, out)


@dataclass(frozen=True)
class BernoulliDrift(Law):
    """Eq. (14): a cell conducts nothing with probability p, and is unchanged otherwise.

    Raises:
        InputError: unless 0 <= p <= 1.
    """

    p: float
    kind: ClassVar[str] = "bernoulli"

    def __post_init__(self) -> None:
        require(finite(self.p) and 0 <= self.p <= 1, f"p={self.p}: a probability lies in 0 .. 1")

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `Law`."""
        kernels.drop(g, stream.words(g.size, start), int(self.p * 2**32), out)


@dataclass(frozen=True)
class RetentionDrift(Law):
    """Eq. (15): g' = g (t/t0)^-(nu + nu_sigma z), the power law of retention with a spread in its exponent.

    Args:
        nu: mean exponent (0.1 in Boybat et al. 2018 for PCM; positive means loss).
        time, t0: seconds since programming, and the time at which g was read as programmed.
        nu_sigma: standard deviation of the exponent between cells.

    Raises:
        InputError: unless time > 0, t0 > 0, nu_sigma >= 0 and the change stays below a factor of 2^120.
    """

    nu: float
    time: float
    t0: float = 1.0
    nu_sigma: float = 0.0
    kind: ClassVar[str] = "retention"

    def __post_init__(self) -> None:
        require(finite(self.time) and self.time > 0, f"time={self.time} s must be above 0 s")
        require(finite(self.t0) and self.t0 > 0, f"t0={self.t0} s must be above 0 s")
        require(finite(self.nu), f"nu={self.nu} must be a finite exponent")
        require(finite(self.nu_sigma) and self.nu_sigma >= 0, f"nu_sigma={self.nu_sigma} must be at least 0")
        octaves = abs(math.log2(self.time / self.t0))
        require(
            octaves * (abs(self.nu) + 6.8 * self.nu_sigma) <= 120,
            f"nu={self.nu}, nu_sigma={self.nu_sigma}, time={self.time} s: changes beyond a factor of 2^120",
        )

    @property
    def rates(self) -> tuple[np.float32, np.float32, np.float32]:
        """(factor, high, low): g' = factor g 2^((high + low) z)."""
        octaves = math.log2(self.time / self.t0)
        return np.float32(2.0 ** (-self.nu * octaves)), *split(-self.nu_sigma * octaves)

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `Law`."""
        kernels.lognormal(g, out, *self.rates, start, *stream.name)


@dataclass(frozen=True)
class RelaxationShift(Law):
    """Eq. (16): g' = max(g + mean_per_ln ln t + (sigma + sigma_per_ln ln t) z, 0), conductances in S, t in s.

    The relaxation of programmed oxide cells, independent of g (Falcone et al. 2025, arXiv:2502.04524).

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
        require(finite(self.time) and self.time >= 1, f"time={self.time} s: the fit holds from 1 s on")
        for name in ("mean_per_ln", "sigma", "sigma_per_ln"):
            require(finite(getattr(self, name)), f"{name}={getattr(self, name)} S must be finite")
        require(self.spread >= 0, f"sigma={self.spread} S at {self.time} s must be at least 0 S")

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


ALL_DRIFTS: tuple[type[Law], ...] = (
    LogNormalDrift, NormalDrift, NormalShift, UniformDrift, UniformShift, LaplaceDrift, LaplaceShift,
    GammaDrift, ParetoDrift, BernoulliDrift, RetentionDrift, RelaxationShift,
)  # fmt: skip
"""Every law: drives the tests, the configuration files and the help."""
