"""Drift laws: how a programmed conductance changes with time. Multiplicative ones end in Drift, additive in Shift.

| law | equation | parameter |
|---|---|---|---|
| LogNormalDrift | g exp(sigma z) | sigma of ln g |
| RetentionDrift | g (t/t0)^-(nu + sigma_nu z) | nu, sigma_nu; t and t0 in s |
| RelaxationShift | g + mu(t) + sigma(t) z | mu, sigma in S, linear in ln t |
| MeasuredRelaxation | the same, with mu and sigma polynomials of g | their coefficients in S |
| NormalDrift, UniformDrift, LaplaceDrift | g (1 + sigma d), d of mean 0 and variance 1 | sigma, a fraction of g |
| NormalShift, UniformShift, LaplaceShift | g + sigma d | sigma in S |
| GammaDrift | g x, x gamma of mean 1 | sigma of x, a fraction |
| ParetoDrift | g x, x Pareto of mean 1 | tail index alpha |
| BernoulliDrift | g or 0 | probability of 0 |

A law is a frozen dataclass on `DriftModel`. No law lets a conductance fall below 0 S. To add one to the package, see
CONTRIBUTING.md; for one of your own outside of it, docs/extending.md.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from crossbar_sim.crossbar import kernels, threads
from crossbar_sim.crossbar.devices import polynomial, register
from crossbar_sim.crossbar.stream import Float32, Stream
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key
from crossbar_sim.validate import SINGLE, number, require


class DriftModel(ABC):
    """A drift law: how a conductance changes with time. Frozen, without a random state.

    `kind` names it in files; `multiplicative` says whether it scales a conductance (then it must be linear in g) or
    adds to it. To write one of your own, see docs/extending.md.
    """

    kind: ClassVar[str]
    multiplicative: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        if "kind" not in cls.__dict__:  # messages name it by its path
            cls.kind = f"{cls.__module__}:{cls.__qualname__}"

    @property
    def is_deterministic(self) -> bool:
        """Whether drift is the same on all chips, for example because its spread is 0. The default is False."""
        return False

    @abstractmethod
    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """Write the drifted conductances of a chunk of cells.

        Args:
            g: conductances in S, (n,); not to be changed.
            out: where to write, (n,), no overlap with `g`. Conductances must be 0 S or above.
            stream: draws `stream.normals(n, start)` or `stream.words(n, start)`, a function of the cell's number.
            start: the number of the first cell, a multiple of 256.
        """

    def apply(self, g: Float32, key: Key, chip: int, out: Float32 | None = None) -> Float32:
        """The conductances of `chip` after drift.

        Args:
            g: conductances in S, shape (n,), (rows, cols) or (planes, rows, cols).
            key: the array's name; the stream is `key.fold("drift")`.
            chip: which sample of the design.
            out: where to write: float32, the shape of `g`, with any strides. It may be `g` itself, but must not
                overlap it otherwise. With `out`, nothing of the size of `g` is allocated.

        Returns:
            `out`, or a new float32 array of the shape of `g`, in S.

        Raises:
            InputError: if g has another number of dimensions, the chip is not an integer in 0 .. 2**32 - 1, or `out`
                cannot be used.
        """
        g = np.asarray(g, np.float32)
        if not 1 <= g.ndim <= 3:
            raise InputError(f"g has shape {g.shape}: expected (n,), (rows, cols) or (planes, rows, cols)")
        if out is None:
            out = np.empty(g.shape, np.float32)
        else:
            _check_out(out, g)
        key = key.fold("drift")
        for plane, (before, after) in enumerate(zip(g, out, strict=True) if g.ndim == 3 else [(g, out)]):
            self.apply_plane(before, after, Stream.of(key, chip, plane))
        return out

    def apply_plane(self, g: Float32, out: Float32, stream: Stream) -> None:
        """Write the cells of one plane, (n,) or (rows, cols), on all threads; `out` as for `apply`.

        Cells are counted bit line by bit line, so a matrix is read and written as its transpose.
        """
        lines, results = (g.T, out.T) if g.ndim == 2 else (g[None], out[None])
        in_place = np.may_share_memory(g, out)

        def chunk(part: slice) -> None:
            n = part.stop - part.start
            if not lines.flags.c_contiguous:
                before = np.empty(n, np.float32)
                for cells, block in _blocks(lines, part):
                    before[cells].reshape(block.shape)[:] = block
            else:
                before = lines.reshape(-1)[part]
                before = before.copy() if in_place else before
            if results.flags.c_contiguous:
                self.cells(before, results.reshape(-1)[part], stream, part.start)
                return
            after = np.empty(n, np.float32)
            self.cells(before, after, stream, part.start)
            for cells, block in _blocks(results, part):
                block[:] = after[cells].reshape(block.shape)

        threads.run(chunk, threads.chunks(g.size))


def _blocks(lines: Float32, part: slice) -> Iterator[tuple[slice, Float32]]:
    """The cells `part` of bit lines (lines, cells) as at most three views, each with its place in the run of cells."""
    length, position = lines.shape[1], part.start
    while position < part.stop:
        line, cell = divmod(position, length)
        whole = (part.stop - position) // length if cell == 0 else 0
        if whole:
            n, block = whole * length, lines[line : line + whole]
        else:
            n = min(length - cell, part.stop - position)
            block = lines[line, cell : cell + n]
        yield slice(position - part.start, position - part.start + n), block
        position += n


def _check_out(out: object, g: Float32) -> None:
    """Refuse an array that conductances cannot be written to."""
    require(isinstance(out, np.ndarray), f"out is a {type(out).__name__}: expected a NumPy array of float32")
    assert isinstance(out, np.ndarray)
    require(
        out.dtype == np.float32 and out.shape == g.shape and out.flags.writeable,
        f"out is {'' if out.flags.writeable else 'read-only '}{out.dtype} of shape {out.shape}: expected writeable "
        f"float32 of shape {g.shape}",
    )
    same = out.__array_interface__["data"] == g.__array_interface__["data"] and out.strides == g.strides
    require(
        same or not np.may_share_memory(out, g),
        "out overlaps g: give g itself to change it in place, or an array with memory of its own",
    )


def split(rate: float) -> tuple[np.float32, np.float32]:
    """A float64 as the sum of two float32, for `exp2`."""
    high = np.float32(rate)
    return high, np.float32(rate - float(high))


@dataclass(frozen=True)
class LogNormalDrift(DriftModel):
    """Eq. (8): g' = g exp(lambda), lambda ~ N(0, sigma^2). Eq. (1) of BayesFT, DAC 2021.

    Raises:
        InputError: unless 0 <= sigma <= 12 (a factor of e^81 at the end of the normal's range).
    """

    sigma: float
    kind: ClassVar[str] = "lognormal"

    def __post_init__(self) -> None:
        number(self, "sigma", "sigma of ln g must be in 0 .. 12", 0, 12)

    @property
    def is_deterministic(self) -> bool:
        """See `DriftModel`."""
        return self.sigma == 0

    @property
    def rates(self) -> tuple[np.float32, np.float32, np.float32]:
        """(factor, high, low): g' = factor g 2^((high + low) z)."""
        return np.float32(1.0), *split(self.sigma * math.log2(math.e))

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `DriftModel`."""
        kernels.lognormal(g, out, *self.rates, start, *stream.name)


# Laws with one spread: normal, uniform and Laplace, as a factor (Drift) or as a term (Shift).


@dataclass(frozen=True)
class _Spread(DriftModel):
    """Laws with one spread, standardised draws and the choice between a factor and a term."""

    sigma: float

    def __post_init__(self) -> None:
        unit = "a fraction of g" if self.multiplicative else "in S"
        number(self, "sigma", f"sigma, {unit}, must be in 0 .. {SINGLE:g}", 0, SINGLE)

    @property
    def is_deterministic(self) -> bool:
        """See `DriftModel`."""
        return self.sigma == 0

    @abstractmethod
    def draws(self, n: int, stream: Stream, start: int) -> Float32:
        """Draws of mean 0 and variance 1, shape (n,)."""

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `DriftModel`."""
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


# Laws that multiply by a random factor of mean 1 (gamma, Pareto), or by 0 or 1 (Bernoulli).


@dataclass(frozen=True)
class GammaDrift(DriftModel):
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
        number(self, "sigma", "sigma of a gamma factor must be in 0 .. 3", 0, 3)

    @property
    def is_deterministic(self) -> bool:
        """See `DriftModel`."""
        return self.sigma == 0

    def table(self) -> Float32:
        """Coefficients of log2 x on equal pieces of [-Z, Z]: (PIECES, 4), lowest power first."""
        from scipy import (  # imported here: it takes half a second, and no other law needs it
            interpolate,
            special,
        )

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
        """See `DriftModel`."""
        table = gamma_table(self)
        per_unit = np.float32(self.PIECES / (2 * self.Z))
        z = stream.normals(g.size, start)
        kernels.by_quantile(g, z, table, np.float32(-self.Z), per_unit, out)


_TABLES: dict[GammaDrift, Float32] = {}


def gamma_table(law: GammaDrift) -> Float32:
    """The law's table, computed once per process."""
    if law not in _TABLES:
        _TABLES[law] = law.table().ravel()
    return _TABLES[law]


@dataclass(frozen=True)
class ParetoDrift(DriftModel):
    """Eq. (13): g' = g x, x Pareto with tail index alpha and mean 1: (1 - 1/alpha) u^(-1/alpha).

    Raises:
        InputError: unless alpha > 1 (the mean is infinite below).
    """

    alpha: float
    kind: ClassVar[str] = "pareto"

    def __post_init__(self) -> None:
        number(self, "alpha", "a Pareto factor has a mean only for a tail index above 1", above=1)

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `DriftModel`."""
        least = np.float32(1 - 1 / self.alpha)
        half_rate = np.float32(math.log2(math.e) / (2 * self.alpha))
        kernels.pareto(g, stream.words(g.size, start), least, half_rate, out)


@dataclass(frozen=True)
class BernoulliDrift(DriftModel):
    """Eq. (14): a cell conducts nothing with probability p, and is unchanged otherwise.

    Raises:
        InputError: unless 0 <= p <= 1.
    """

    p: float
    kind: ClassVar[str] = "bernoulli"

    def __post_init__(self) -> None:
        number(self, "p", "a probability must be in 0 .. 1", 0, 1)

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `DriftModel`."""
        kernels.drop(g, stream.words(g.size, start), int(self.p * 2**32), out)


@dataclass(frozen=True)
class RetentionDrift(DriftModel):
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
        octaves = math.log2(self.time) - math.log2(self.t0)  # the quotient may overflow
        return np.float32(2.0 ** (-self.nu * octaves)), *split(-self.nu_sigma * octaves)

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `DriftModel`."""
        kernels.lognormal(g, out, *self.rates, start, *stream.name)


@dataclass(frozen=True)
class RelaxationShift(DriftModel):
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
        """See `DriftModel`."""
        z = stream.normals(g.size, start)
        kernels.shift(g, z, np.float32(self.mean), np.float32(self.spread), out)


@dataclass(frozen=True)
class MeasuredRelaxation(DriftModel):
    """Eq. (16b): g' = max(g + m(g) ln t + |s(g) + q(g) ln t| z, 0), polynomials of g / reference, in S, t in s.

    A relaxation whose mean and spread depend on the conductance, as `fit-device` finds it.

    Args:
        time: seconds since programming, at least 1.
        reference: the conductance in S that the polynomials divide by.
        mean_per_ln: coefficients of m in S, lowest power first.
        spread, spread_per_ln: those of s and q.

    Raises:
        InputError: unless time >= 1 s, every list has 1 .. 16 finite numbers of S, and reference is in
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
        rule = "the conductance that the polynomials divide by must be in 1e-30 .. 1e30 S"
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
        """Upper bound in S of every term of mean and spread at conductances up to `g` (S); it may be infinite."""
        try:
            return max(
                abs(c) * (g / self.reference) ** k for part in self.at_time for k, c in enumerate(part)
            )
        except OverflowError:
            return math.inf

    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """See `DriftModel`."""
        mean, spread = (np.array(c, np.float32) for c in self.at_time)
        z = stream.normals(g.size, start)
        kernels.relax(g, z, mean, spread, np.float32(1 / self.reference), out)


ALL_DRIFTS: tuple[type[DriftModel], ...] = (
    LogNormalDrift, NormalDrift, NormalShift, UniformDrift, UniformShift, LaplaceDrift,
    LaplaceShift, GammaDrift, ParetoDrift, BernoulliDrift, RetentionDrift, RelaxationShift, MeasuredRelaxation,
)  # fmt: skip
"""Every law of the package: drives the tests, the public names and the help."""

DRIFTS: dict[str, type[DriftModel]] = {law.kind: law for law in ALL_DRIFTS}
"""Laws by kind: the package's, and what `register_drift` added."""

D = TypeVar("D", bound=type[DriftModel])


def register_drift(law: D) -> D:
    """Class decorator: `--drift` and files know a law of your own by its `kind`.

    Raises:
        InputError: unless it is a frozen dataclass on `DriftModel` with a `kind` that no other class has.
    """
    register(DRIFTS, DriftModel, law)
    return law
