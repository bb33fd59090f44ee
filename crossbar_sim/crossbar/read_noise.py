"""Noise that is fresh at every read: Eq. (24) to (27) of docs/periphery.md.

No cell is drawn anew. The current of a bit line is a sum over its cells, so one normal of the summed variance,
sum_r v_r^2 var(g_rc), stands for them all: exact for Gaussian cells, and for two-state cells the limit of many.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from crossbar_sim.crossbar.checks import number, require, show
from crossbar_sim.crossbar.stream import Float32


@dataclass(frozen=True)
class GaussianReadNoise:
    """Every cell reads g + sigma x z, with x = g_max or the cell's own g and z fresh at each read.

    Args:
        sigma: standard deviation, a fraction of what `of` says.
        of: "g_max", the same for all cells (an instrument's or a trap's absolute noise); "g", a fraction of the
            cell's own conductance.

    Raises:
        InputError: unless sigma lies in 0 .. 100.
    """

    sigma: float
    of: Literal["g_max", "g"] = "g_max"

    kind: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        number(self, "sigma", f"sigma, a fraction of {show(self.of)}, must lie in 0 .. 100", 0, 100)
        require(
            isinstance(self.of, str) and self.of in ("g_max", "g"), f"of={show(self.of)} must be g_max or g"
        )

    def variance(self, g: Float32, g_max: float) -> Float32:
        """Eq. (25): of each cell's conductance, in S^2, the shape of g."""
        base = np.full_like(g, g_max) if self.of == "g_max" else g
        spread = np.float32(self.sigma) * base
        return spread * spread

    def mean(self, g: Float32) -> Float32:
        """What the cells conduct on average."""
        return g


@dataclass(frozen=True)
class TelegraphNoise:
    """Random telegraph noise: a cell conducts g, or g (1 - amplitude) while its trap is occupied.

    A trap is occupied with probability `occupancy` at each read, independently of the read before: reads lie
    further apart than its switching times.

    Args:
        amplitude: relative drop of the conductance, 0 .. 1.
        occupancy: share of the time in the lower state, 0 .. 1.

    Raises:
        InputError: unless both lie in 0 .. 1.
    """

    amplitude: float
    occupancy: float = 0.5

    kind: ClassVar[str] = "telegraph"

    def __post_init__(self) -> None:
        number(self, "amplitude", "the relative drop of a conductance lies in 0 .. 1", 0, 1)
        number(self, "occupancy", "a share of the time lies in 0 .. 1", 0, 1)

    def variance(self, g: Float32, g_max: float) -> Float32:
        """Eq. (27): a^2 p (1 - p) g^2 of each cell, in S^2."""
        factor = self.amplitude**2 * self.occupancy * (1 - self.occupancy)
        return np.float32(factor) * g * g

    def mean(self, g: Float32) -> Float32:
        """Eq. (26): g (1 - a p), what the cells conduct on average."""
        return g * np.float32(1 - self.amplitude * self.occupancy)


ALL_READ_NOISE: tuple[type, ...] = (GaussianReadNoise, TelegraphNoise)
"""Every read noise: drives the tests and the configuration files."""
