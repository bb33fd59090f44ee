"""Laws that multiply by a random factor of mean 1 (gamma, Pareto), or by 0 or 1 (Bernoulli)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from crossbar_sim.crossbar import kernels
from crossbar_sim.crossbar.checks import number
from crossbar_sim.crossbar.law import Law
from crossbar_sim.crossbar.stream import Float32, Stream


@dataclass(frozen=True)
class GammaDrift(Law):
    """Eq. (12): g' = g x, x gamma-distributed with mean 1 and standard deviation sigma.

    The shape is 1/sigma^2. x is the gamma quantile of the normal's probability, so that chip i
    moves the same way at every sigma; log2 of the quantile is tabulated as a cubic spline (relative
    error below 3e-5, below 2e-6 for sigma <= 0.5: docs/model.md).

    Raises:
        InputError: unless 0 <= sigma <= 3.
    """

    sigma: float
    kind: ClassVar[str] = "gamma"
    Z: ClassVar[float] = 6.8  # |z| <= 6.77
    PIECES: ClassVar[int] = 2048

    def __post_init__(self) -> None:
        number(self, "sigma", "sigma of a gamma factor must lie in 0 .. 3", 0, 3)

    def table(self) -> Float32:
        """Coefficients of log2 x on equal pieces of [-Z, Z]: (PIECES, 4), lowest power first."""
        from scipy import interpolate, special  # half a second of imports that no other law needs

        z = np.linspace(-self.Z, self.Z, self.PIECES + 1)
        if self.sigma < 1e-3:  # two terms of Cornish and Fisher: SciPy's inverse loses places there
            q = np.log2(1.0 + self.sigma * z + self.sigma**2 * (z * z - 1.0) / 3.0)
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
    """Eq. (13): g' = g x, x Pareto with tail index alpha and mean 1: (1 - 1/alpha) u^(-1/alpha).

    Raises:
        InputError: unless alpha > 1 (the mean is infinite below).
    """

    alpha: float
    kind: ClassVar[str] = "pareto"

    def __post_init__(self) -> None:
        number(self, "alpha", "a Pareto factor has a mean only for a tail index above 1", above=1)

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `Law`."""
        least = np.float32(1 - 1 / self.alpha)
        half_rate = np.float32(math.log2(math.e) / (2 * self.alpha))
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
        number(self, "p", "a probability lies in 0 .. 1", 0, 1)

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `Law`."""
        kernels.drop(g, stream.words(g.size, start), int(self.p * 2**32), out)
