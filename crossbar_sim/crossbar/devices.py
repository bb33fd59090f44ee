"""What happens to a cell when it is written: programming noise, and cells that do not listen."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from crossbar_sim.crossbar import kernels
from crossbar_sim.crossbar.checks import finite, require
from crossbar_sim.crossbar.stream import Float32, Stream


@dataclass(frozen=True)
class ProgrammingNoise:
    """Eq. (6) with a constant spread: g' = max(g + sigma g_max z, 0).

    Args:
        sigma: standard deviation as a fraction of g_max.

    Raises:
        InputError: unless sigma >= 0.
    """

    sigma: float
    kind: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        require(finite(self.sigma) and self.sigma >= 0, f"sigma={self.sigma} of g_max must be at least 0")

    def cells(self, g: Float32, z: Float32, g_max: float, out: Float32) -> None:
        """Write the programmed conductances of a chunk; g, z and out are (n,)."""
        kernels.program(g, z, np.array([self.sigma * g_max], np.float32), np.float32(1.0), out)


@dataclass(frozen=True)
class PolynomialNoise:
    """Eq. (6): g' = max(g + sigma(g) z, 0), sigma(g) = sum_k coefficients[k] (g / reference)^k.

    Args:
        coefficients: in S, lowest power first; a negative sigma(g) counts as 0.
        reference: the conductance in S that the fit divides by.

    Raises:
        InputError: if there is no coefficient, one is not finite, or reference <= 0.
    """

    coefficients: tuple[float, ...]
    reference: float
    kind: ClassVar[str] = "polynomial"

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", tuple(self.coefficients))
        require(len(self.coefficients) > 0, "coefficients=(): programming noise needs at least one")
        require(all(map(finite, self.coefficients)), f"coefficients={self.coefficients} S must be finite")
        require(
            finite(self.reference) and self.reference > 0, f"reference={self.reference} S must be above 0 S"
        )

    def sigma(self, g: float) -> float:
        """The standard deviation of a cell programmed to `g`, both in S."""
        r = g / self.reference
        return max(sum(c * r**k for k, c in enumerate(self.coefficients)), 0.0)

    def cells(self, g: Float32, z: Float32, g_max: float, out: Float32) -> None:
        """Write the programmed conductances of a chunk; g, z and out are (n,)."""
        coefficients = np.array(self.coefficients, np.float32)
        kernels.program(g, z, coefficients, np.float32(1 / self.reference), out)


ALL_PROGRAMMING = (ProgrammingNoise, PolynomialNoise)


@dataclass(frozen=True)
class StuckCells:
    """Eq. (7): a cell is stuck at g_min with probability `off`, at g_max with `on`, whatever was programmed.

    The names say the state, because the field disagrees on what "stuck at 0" means.

    Raises:
        InputError: unless both lie in 0 .. 1 and their sum does not exceed 1.
    """

    off: float = 0.0
    on: float = 0.0
    kind: ClassVar[str] = "stuck"

    def __post_init__(self) -> None:
        for name, p in (("off", self.off), ("on", self.on)):
            require(finite(p) and 0 <= p <= 1, f"{name}={p}: a probability lies in 0 .. 1")
        require(self.off + self.on <= 1, f"off={self.off} and on={self.on} add up to more than 1")

    def cells(
        self, g: Float32, stream: Stream, start: int, window: tuple[float, float], out: Float32, faults: np.ndarray
    ) -> None:  # fmt: skip
        """Write a chunk's conductances (n,) in S and its fault codes (n,): 0 healthy, 1 off, 2 on."""
        off, on = np.float32(window[0]), np.float32(window[1])
        below, above = int(self.off * 2**32), 2**32 - int(self.on * 2**32)
        kernels.stick(g, stream.words(g.size, start), below, above, off, on, out, faults)
