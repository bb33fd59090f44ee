"""Programming noise and stuck-at faults: how the conductance of a cell differs from its target after writing."""

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar import kernels
from crossbar_sim.crossbar.stream import Float32, Stream
from crossbar_sim.validate import SINGLE, finite, number, require, show


def is_frozen_dataclass(cls: type) -> bool:
    """Whether objects of a class are fully described by their fields, as results files need."""
    parameters = getattr(cls, "__dataclass_params__", None)
    return parameters is not None and parameters.frozen


def register(kinds: dict[str, Any], base: type, cls: Any) -> None:
    """Add a class to a registry of kinds.

    Raises:
        InputError: unless the class is a frozen dataclass on `base` with a `kind` that no other class has.
    """
    name = getattr(cls, "__name__", show(cls))
    require(
        isinstance(cls, type) and issubclass(cls, base) and is_frozen_dataclass(cls),
        f"{name} cannot be registered: expected a frozen dataclass that extends {base.__name__}",
    )
    kind = cls.__dict__.get("kind")
    require(
        isinstance(kind, str) and re.fullmatch("[a-z][a-z0-9_]*", kind) is not None,
        f"{name}.kind={show(kind)}: expected a name of small letters, digits and underscores, such as 'my_law'",
    )
    path = (cls.__module__, cls.__qualname__)
    taken = kinds.get(kind)
    require(
        taken is None or (taken.__module__, taken.__qualname__) == path,  # defined again, as in a notebook
        f"{name}.kind={show(kind)} is the kind of {getattr(taken, '__name__', None)}: choose another",
    )
    kinds[kind] = cls


class ProgrammingModel(ABC):
    """Programming noise: from target to programmed conductances. Frozen, without a random state.

    `kind` names it in files. To write one of your own, see docs/extending.md.
    """

    kind: ClassVar[str]

    def __init_subclass__(cls) -> None:
        if "kind" not in cls.__dict__:  # messages name it by its path
            cls.kind = f"{cls.__module__}:{cls.__qualname__}"

    @abstractmethod
    def cells(self, g: Float32, z: Float32, g_max: float, out: Float32) -> None:
        """Write the programmed conductances of a chunk of cells.

        Args:
            g: target conductances in S, (n,); not to be changed.
            z: one standard normal number of each cell, (n,); not to be changed.
            g_max: the largest conductance of the mapping, in S.
            out: where to write, (n,), no overlap with the others. Conductances must be 0 S or above.
        """


@dataclass(frozen=True)
class ProgrammingNoise(ProgrammingModel):
    """Eq. (6) with a constant spread: g' = max(g + sigma g_max z, 0).

    Args:
        sigma: standard deviation as a fraction of g_max.

    Raises:
        InputError: unless 0 <= sigma <= 1000.
    """

    sigma: float
    kind: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        number(self, "sigma", "sigma, a fraction of g_max, must be in 0 .. 1000", 0, 1000)

    def cells(self, g: Float32, z: Float32, g_max: float, out: Float32) -> None:
        """Write the programmed conductances of a chunk; g, z and out are (n,)."""
        kernels.program(g, z, np.array([self.sigma * g_max], np.float32), np.float32(1.0), out)


@dataclass(frozen=True)
class PolynomialNoise(ProgrammingModel):
    """Eq. (6): g' = max(g + sigma(g) z, 0), sigma(g) = sum_k coefficients[k] (g / reference)^k.

    Args:
        coefficients: in S, lowest power first; a negative sigma(g) counts as 0.
        reference: the conductance in S that the fit divides by.

    Raises:
        InputError: if there is no coefficient, one is not finite, or reference lies outside
            1e-30 .. 1e30 S.
    """

    coefficients: tuple[float, ...]
    reference: float
    kind: ClassVar[str] = "polynomial"

    def __post_init__(self) -> None:
        polynomial(self, "coefficients")
        rule = "the conductance that the fit divides by must be in 1e-30 .. 1e30 S"
        number(self, "reference", rule, 1 / SINGLE, SINGLE)

    def sigma(self, g: float) -> float:
        """The standard deviation of a cell programmed to `g`, both in S."""
        r = g / self.reference
        return max(sum(c * r**k for k, c in enumerate(self.coefficients)), 0.0)

    def bound(self, g: float) -> float:
        """Upper bound in S of every term of sigma at conductances up to `g` (S); it may be infinite."""
        try:
            return max(abs(c) * (g / self.reference) ** k for k, c in enumerate(self.coefficients))
        except OverflowError:
            return math.inf

    def cells(self, g: Float32, z: Float32, g_max: float, out: Float32) -> None:
        """Write the programmed conductances of a chunk; g, z and out are (n,)."""
        coefficients = np.array(self.coefficients, np.float32)
        kernels.program(g, z, coefficients, np.float32(1 / self.reference), out)


def polynomial(owner: object, name: str, most: float = SINGLE) -> None:
    """Keep a field of coefficients in S as a tuple of plain floats, or refuse it.

    Args:
        owner: the frozen dataclass.
        name: its field.
        most: no coefficient may exceed this, in S.

    Raises:
        InputError: naming the field, what was given and what is allowed.
    """
    given: Any = getattr(owner, name)
    given = given.tolist() if isinstance(given, np.ndarray) else given
    require(
        isinstance(given, tuple | list) and 1 <= len(given) <= 16,
        f"{name}={show(given)}: expected 1 .. 16 numbers in S, lowest power first",
    )
    require(
        all(finite(c) and abs(c) <= most for c in given),
        f"{name}={show(given)}: every one must be a finite number of S, not above {f'{most:.0e}'.replace('+', '')} S",
    )
    object.__setattr__(owner, name, tuple(float(c) + 0.0 for c in given))


@dataclass(frozen=True)
class MeasuredNoise(PolynomialNoise):
    """Eq. (6b): g' = max(g + mu(g) + sigma(g) z, 0), both polynomials of g / reference; as `fit-device` finds it.

    Args:
        coefficients: of sigma in S, lowest power first; a negative sigma(g) counts as 0.
        reference: the conductance in S that the fit divides by.
        mean: of mu in S, lowest power first: how far a cell ends from its target on average.

    Raises:
        InputError: as `PolynomialNoise`, and for a mean that is no list of finite numbers.
    """

    mean: tuple[float, ...]
    kind: ClassVar[str] = "measured"

    def __post_init__(self) -> None:
        super().__post_init__()
        polynomial(self, "mean")

    def mu(self, g: float) -> float:
        """The mean error of a cell programmed to `g`, both in S."""
        r = g / self.reference
        return sum(c * r**k for k, c in enumerate(self.mean))

    def bound(self, g: float) -> float:
        """See `PolynomialNoise`; includes the mean."""
        try:
            mean = max(abs(c) * (g / self.reference) ** k for k, c in enumerate(self.mean))
            return max(super().bound(g), mean)
        except OverflowError:
            return math.inf

    def cells(self, g: Float32, z: Float32, g_max: float, out: Float32) -> None:
        """Write the programmed conductances of a chunk; g, z and out are (n,)."""
        r = g * np.float32(1 / self.reference)
        mean, sigma = (
            np.polynomial.polynomial.polyval(r, np.array(c, np.float32))
            for c in (self.mean, self.coefficients)
        )
        out[:] = np.maximum(g + mean + np.maximum(sigma, 0) * z, 0)


ALL_PROGRAMMING: tuple[type[ProgrammingModel], ...] = (ProgrammingNoise, PolynomialNoise, MeasuredNoise)

PROGRAMMING: dict[str, type[ProgrammingModel]] = {noise.kind: noise for noise in ALL_PROGRAMMING}
"""Programming noise by kind: the package's, and what `register_programming` added."""

P = TypeVar("P", bound=type[ProgrammingModel])


def register_programming(noise: P) -> P:
    """Class decorator: `--programming` and files know a noise of your own by its `kind`.

    Raises:
        InputError: unless it is a frozen dataclass on `ProgrammingModel` with a `kind` that no other class has.
    """
    register(PROGRAMMING, ProgrammingModel, noise)
    return noise


@dataclass(frozen=True)
class StuckCells:
    """Eq. (7): a cell is stuck at g_min with probability `off`, at g_max with `on`.

    The programmed value does not matter. The names say the state, because the field disagrees on what
    "stuck at 0" means.

    Raises:
        InputError: unless both lie in 0 .. 1 and their sum does not exceed 1.
    """

    off: float = 0.0
    on: float = 0.0
    kind: ClassVar[str] = "stuck"

    def __post_init__(self) -> None:
        for name in ("off", "on"):
            number(self, name, "a probability must be in 0 .. 1", 0, 1)
        require(
            self.off + self.on <= 1, f"off={self.off} and on={self.on} of stuck cells add up to more than 1"
        )

    def cells(
        self,
        g: Float32,
        stream: Stream,
        start: int,
        window: tuple[float, float],
        out: Float32,
        faults: NDArray[np.uint8],
    ) -> None:
        """Write a chunk's conductances (n,) in S and fault codes (n,): 0 healthy, 1 off, 2 on."""
        off, on = np.float32(window[0]), np.float32(window[1])
        below, above = int(self.off * 2**32), 2**32 - int(self.on * 2**32)
        kernels.stick(g, stream.words(g.size, start), below, above, off, on, out, faults)
