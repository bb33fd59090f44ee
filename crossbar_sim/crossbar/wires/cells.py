"""Cells that are not ohmic: current as a function of conductance and voltage."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from crossbar_sim.crossbar.checks import number, require
from crossbar_sim.crossbar.wires.wires import Float64


class Cell(Protocol):
    """A law of cells. Its current rises with the voltage and is 0 at 0 V; its slope there is g."""

    def check(self, g: Float64, volts: float) -> None:
        """Refuse conductances, in S, and voltages up to +-`volts` that the law does not hold for."""

    def current(self, g: Float64, v: Float64) -> tuple[Float64, Float64]:
        """Current in A and its derivative in S.

        Args:
            g: (rows, cols), conductance at small voltages, S.
            v: (rows, cols), word line less bit line, V.
        """
        ...


@dataclass(frozen=True)
class Sinh:
    """i = g sinh(a v) / a: transport over or through a barrier that the voltage lowers.

    Args:
        a: 1/V, > 0; the current at 1/a is 18 % above that of an ohmic cell.

    Raises:
        InputError: unless 1e-6 <= a <= 1e3.
    """

    a: float

    def __post_init__(self) -> None:
        number(self, "a", "of g sinh(a v)/a must lie in 1e-6 .. 1e3 per volt", 1e-6, 1e3)

    def check(self, g: Float64, volts: float) -> None:
        """See `Cell`: the exponent is held to 50."""
        require(
            self.a * volts <= 50,
            f"a={self.a} /V at {volts:.4g} V: sinh(a v) would pass e^50; lower the voltages or a",
        )

    def current(self, g: Float64, v: Float64) -> tuple[Float64, Float64]:
        """See `Cell`."""
        return g * np.sinh(self.a * v) / self.a, g * np.cosh(self.a * v)


@dataclass(frozen=True)
class Milo2021:
    """i = g v + c2(g) v^2 + c3(g) v^3: HfO2 cells of Milo et al., IRPS 2021, Fig. 1.

    c2 and c3 are polynomials of log10(g/S). The figures are those of CrossSim (devices/custom/RRAM_Milo.py),
    fitted to the measured curves of four states, 62.5 to 110 uS, within +-0.5 V, and to an assumed ohmic state
    of 225 uS: outside 62.5 .. 110 uS they are an extrapolation.
    """

    second: ClassVar[tuple[float, ...]] = (0.007063, 0.005711, 0.001541, 0.0001388)
    third: ClassVar[tuple[float, ...]] = (1.2968e-03, 6.7919e-04, 8.8710e-05)

    def check(self, g: Float64, volts: float) -> None:
        """See `Cell`: 50 .. 225 uS (or open) and 0.5 V."""
        live = g[g > 0]
        require(
            live.size == 0 or (live.min() >= 49.9e-6 and live.max() <= 225.1e-6),
            "the cells of Milo 2021 have 50 .. 225 uS (or are open, 0 S); these have "
            f"{live.min(initial=np.inf) * 1e6:.4g} .. {live.max(initial=0) * 1e6:.4g} uS",
        )
        require(
            volts <= 0.5000001,
            f"{volts:.4g} V: the curves of Milo 2021 were measured up to 0.5 V; lower the voltages",
        )

    def current(self, g: Float64, v: Float64) -> tuple[Float64, Float64]:
        """See `Cell`."""
        decades = np.log10(np.where(g > 0, g, 1e-4))
        c2 = np.where(g > 0, np.polynomial.polynomial.polyval(decades, self.second), 0.0)
        c3 = np.where(g > 0, np.polynomial.polynomial.polyval(decades, self.third), 0.0)
        return v * (g + v * (c2 + v * c3)), g + v * (2 * c2 + 3 * v * c3)
