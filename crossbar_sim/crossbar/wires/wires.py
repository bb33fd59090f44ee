"""The wires of a tile: what they are made of, and what they make of its conductances."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar.checks import number, require, show, unknown

Float64 = NDArray[np.float64]

Inputs = Literal["one", "both"]
Method = Literal["fast", "exact"]

_OHM = "a resistance is 0 ohm (ideal) or lies in 1e-9 .. 1e9 ohm"


@dataclass(frozen=True)
class Wires:
    """Resistance of the lines of one tile; docs/wires.md draws the circuit.

    A word line has a segment before its first cell, a bit line one after its last, at grounded sense.

    Args:
        r_word: of one segment of a word line, in ohm. 0: ideal.
        r_bit: of one segment of a bit line, in ohm.
        r_source: of what drives a word line, in ohm, in series with its first segment.
        r_sense: of what senses a bit line, in ohm, in series with its last segment.
        inputs: word lines are driven from "one" end or from "both"; the far end then has a segment and
            a source of its own.
        tolerance: of the fast method: the largest error of a column's current, as a part of the largest
            column current that the same input causes (docs/wires.md says what it bounds in `effective`).
        method: "fast" (Chebyshev's line sweeps for effective conductances, conjugate gradients for the voltages
            of one input) or "exact" (block elimination, to rounding).

    Raises:
        InputError: naming the field, what was given and what is allowed.
    """

    r_word: float = 0.0
    r_bit: float = 0.0
    r_source: float = 0.0
    r_sense: float = 0.0
    inputs: Inputs = "one"
    tolerance: float = 1e-6
    method: Method = "fast"

    kind: ClassVar[str] = "wires"

    def __post_init__(self) -> None:
        for name in ("r_word", "r_bit", "r_source", "r_sense"):
            number(self, name, _OHM, 0, 1e9)
            require(
                getattr(self, name) == 0 or getattr(self, name) >= 1e-9,
                f"{name}={getattr(self, name)}: {_OHM}",
            )
        number(self, "tolerance", "a tolerance lies in 1e-12 .. 0.1", 1e-12, 0.1)
        for name, choices in (("inputs", get_args(Inputs)), ("method", get_args(Method))):
            require(getattr(self, name) in choices, unknown(name, getattr(self, name), choices))

    @property
    def ideal(self) -> bool:
        """Whether no resistance is in any line: currents are then v @ g."""
        return self.ideal_words and self.ideal_bits

    @property
    def ideal_words(self) -> bool:
        """Whether every node of a word line has the voltage of its source."""
        return self.r_word == self.r_source == 0

    @property
    def ideal_bits(self) -> bool:
        """Whether every node of a bit line is at ground."""
        return self.r_bit == self.r_sense == 0

    def effective(self, g: NDArray[Any]) -> Float64:
        """Conductances that carry, without wires, the currents that `g` carries with them: v @ result.

        Args:
            g: cells of one tile, shape (rows, cols), in S; 0 is an open cell. float32 or float64.

        Returns:
            (rows, cols) in S; equal to g where the wires are ideal.

        Raises:
            InputError: if g is no matrix, or holds a negative, NaN or infinite conductance.
        """
        return self.effective_planes([g])[0]

    def effective_planes(self, planes: Sequence[NDArray[Any]]) -> list[Float64]:
        """`effective` of each tile, side by side on all threads (crossbar/threads.py).

        Args:
            planes: tiles, each (rows, cols) in S, of any sizes; or a stack (tiles, rows, cols).

        Returns:
            One (rows, cols) array each, in S; they do not depend on the number of threads.
        """
        from crossbar_sim.crossbar.wires.effective import effective_planes

        return effective_planes([check_cells(g) for g in planes], self)


def check_cells(g: NDArray[Any]) -> Float64:
    """The cells of a tile as C-contiguous float64, a copy only where they are not.

    Raises:
        InputError: if they are no matrix of conductances.
    """
    g = np.ascontiguousarray(g, np.float64)
    require(g.ndim == 2, f"g has shape {g.shape}: expected a tile (rows, cols)")
    if g.size:
        low, high = float(g.min()), float(g.max())
        require(
            low >= 0 and high <= 1e6,  # NaN fails too
            f"g holds conductances from {show(low)} to {show(high)} S: each must lie in 0 (open) .. 1e6 S",
        )
    return g
