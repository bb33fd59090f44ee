"""Laws with one spread: normal, uniform and Laplace, as a factor (Drift) or as a term (Shift)."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from crossbar_sim.crossbar import kernels
from crossbar_sim.crossbar.checks import SINGLE, number
from crossbar_sim.crossbar.law import Law
from crossbar_sim.crossbar.stream import Float32, Stream


@dataclass(frozen=True)
class _Spread(Law):
    """Laws with one spread, standardised draws and the choice between a factor and a term."""

    sigma: float

    def __post_init__(self) -> None:
        unit = "a fraction of g" if self.multiplicative else "in S"
        number(self, "sigma", f"sigma, {unit}, must lie in 0 .. {SINGLE:g}", 0, SINGLE)

    @abstractmethod
    def draws(self, n: int, stream: Stream, start: int) -> Float32:
        """Draws of mean 0 and variance 1, shape (n,)."""

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
