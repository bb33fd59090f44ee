"""All node voltages and currents of a tile for given inputs."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.wires import kernels
from crossbar_sim.crossbar.wires.kernels import conjugate_gradients, mismatch
from crossbar_sim.crossbar.wires.wires import (
    Float64,
    Lines,
    Wires,
    check_cells,
    factor_lines,
    far_conductance,
    fits_memory,
    word_voltages,
)
from crossbar_sim.errors import InputError
from crossbar_sim.validate import number, require

# How a solution ended: sentences for the user, in one place.


class Outcome(Enum):
    """Outcome of a solver; the value is the sentence for the user."""

    SOLVED = "solved: the currents are within the tolerance"
    EXACT = "solved by elimination: the currents are exact but for rounding"
    STEPS = (
        "not solved: the fast method ran out of steps, as it does when many cells are close to a short, and the exact "
        "one would take too much memory; allow a larger tolerance, or divide the tile"
    )
    NEWTON = (
        "not solved: Newton's steps for cells that are not ohmic ran out; lower the voltages or the cells' "
        "non-linearity"
    )

    @property
    def solved(self) -> bool:
        """Whether the currents can be used."""
        return self in (Outcome.SOLVED, Outcome.EXACT)


# Cells that are not ohmic: current as a function of conductance and voltage.


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
        number(self, "a", "of g sinh(a v)/a must be in 1e-6 .. 1e3 per volt", 1e-6, 1e3)

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


# One linear circuit solved for one input: the step that `solve_nodes` repeats.


MOST_STEPS = 500


class Voltages(NamedTuple):
    """Node voltages, (rows, cols) in V, and the outcome of the solver."""

    words: Float64
    bits: Float64
    steps: int
    outcome: Outcome


def solve_linear(
    g: Float64, v: Float64, wires: Wires, lines: Lines | None = None, extra: Float64 | None = None
) -> Voltages:
    """Node voltages of cells that carry g (word - bit) + extra.

    Args:
        g: (rows, cols) in S.
        v: sources, (rows,) in V.
        wires: of the tile.
        lines: `factor_lines(g, wires)`, if already known.
        extra: (rows, cols) in A, from word line to bit line; None: ohmic cells.
    """
    lines = factor_lines(g, wires) if lines is None else lines
    s = np.zeros_like(g) if extra is None else extra
    driven = lines.drive * v[:, None]  # word lines with bit lines at 0 V
    if extra is not None:
        drawn = extra.copy()
        kernels.solve_words(drawn, lines.word_a, lines.word_b)
        driven -= drawn
    if wires.method == "exact":
        return _with_bits(g, word_voltages(g, v[None], wires, lines, s)[0], lines, s)
    left = g * driven + s
    bits, *work = (np.empty_like(g) for _ in range(5))
    ground = wires.r_bit + wires.r_sense
    # An error e has e_last^2 <= ground * its energy <= ground * (r . z) / (1 - largest eigenvalue of K), and K times
    # a tile of ones is at most (1 - drive)(1 - sense).
    drive, sense = min(1.0, float(lines.drive.min())), float(lines.sense.min())
    gap = drive + sense - drive * sense
    bound = wires.tolerance**2 * max(gap, 1e-12) / ground if ground else np.inf
    steps = conjugate_gradients(
        g, *lines[:4], left, bound, MOST_STEPS, bits, *work, np.empty(g.shape[1])
    )  # fmt: skip
    words = g * bits
    kernels.solve_words(words, lines.word_a, lines.word_b)
    words += driven
    allowed = bound * float(np.max(np.abs(bits[-1]))) ** 2 if ground else np.inf
    if steps >= 0 and _left(g, words, bits, lines, s, wires) <= allowed:
        return Voltages(words, bits, steps, Outcome.SOLVED)
    if fits_memory(*g.shape):
        return _with_bits(g, word_voltages(g, v[None], wires, lines, s)[0], lines, s)
    return Voltages(words, bits, steps, Outcome.STEPS)


def _left(g: Float64, words: Float64, bits: Float64, lines: Lines, extra: Float64, wires: Wires) -> float:
    """r . z of Eq. (W12), in W, computed from scratch: conjugate gradients' r collects rounding errors.

    z is what one more sweep along the bit lines would change, and r . z its energy in cells and segments.
    """
    z = _with_bits(g, words, lines, extra).bits - bits
    energy = float(np.sum(g * z * z))
    if wires.r_bit:
        energy += float(np.sum(np.diff(z, axis=0) ** 2)) / wires.r_bit
    ground = wires.r_bit + wires.r_sense
    return energy + (float(np.sum(z[-1] ** 2)) / ground if ground else 0.0)


def solve_exactly(g: Float64, v: Float64, wires: Wires, lines: Lines) -> list[Voltages]:
    """`solve_linear` of ohmic cells by elimination for inputs v, (inputs, rows): the tile is factored once."""
    nothing = np.zeros_like(g)
    return [_with_bits(g, words, lines, nothing) for words in word_voltages(g, v, wires, lines, nothing)]


def _with_bits(g: Float64, words: Float64, lines: Lines, extra: Float64) -> Voltages:
    """Bit lines from word lines."""
    bits = g * words + extra
    kernels.solve_bits(bits, lines.bit_a, lines.bit_b)
    return Voltages(words, bits, 0, Outcome.EXACT)


# Cells that are not ohmic: Newton's method on the whole circuit, for every input.
#
# Such an array is not linear in its inputs: there are no effective conductances, and each input costs several
# solutions of the circuit. `Wires.effective` solves once and then multiplies.


MOST_NEWTON = 60


def solve_newton(g: Float64, v: Float64, wires: Wires, cell: Cell) -> tuple[Voltages, Float64]:
    """Eq. (W14): node voltages and cell currents, (rows, cols), of cells that are not ohmic.

    Each step replaces every cell by its tangent, a conductance and a current source, and solves that circuit. No
    cell of a passive circuit sees more than the spread of its sources (ground among them), so tangents are taken
    within it. Where a step makes the mismatch larger, the tangents' voltages go half as far.
    """
    low, high = min(float(v.min()), 0.0), max(float(v.max()), 0.0)
    span = high - low
    at, reached, smallest, length = np.zeros_like(g), np.inf, np.inf, 1.0
    solved = Voltages(at, at, 0, Outcome.NEWTON)
    current, total = np.zeros_like(g), 0
    start = aim = at  # of the step that is made, or shortened where its end is worse than its start
    for _ in range(MOST_NEWTON):
        tangent_current, slope = cell.current(g, at)
        solved = solve_linear(slope, v, wires, extra=tangent_current - slope * at)
        total += solved.steps
        if not solved.outcome.solved:
            break
        voltage = np.clip(solved.words - solved.bits, -span, span)
        current = cell.current(g, voltage)[0]
        reached = float(np.max(np.abs(current - (tangent_current + slope * (voltage - at))), initial=0.0))
        scale = float(np.max(np.abs(current), initial=0.0))
        if reached <= wires.tolerance * scale / max(g.shape):
            return solved._replace(steps=total), current
        if reached < smallest:
            smallest, length, start, aim = reached, 1.0, at, voltage
        else:
            length /= 2
        at = start + length * (aim - start)
    outcome = Outcome.NEWTON if solved.outcome.solved else solved.outcome
    return solved._replace(steps=total, outcome=outcome), current


def currents_by_solving_each_input(
    g: NDArray[np.floating], v: ArrayLike, wires: Wires, cell: Cell | None
) -> Float64:
    """The product of an array whose cells are not ohmic: the circuit solved for each input. Slow.

    Args:
        g: cells of one tile, (rows, cols) in S at small voltages.
        v: (inputs, rows) or (rows,) in V.
        wires: resistances, method and tolerance.
        cell: the law of the cells; None: ohmic, to compare with `Wires.effective`.

    Returns:
        Column currents in A, (inputs, cols) or (cols,).

    Raises:
        InputError: as `solve_nodes`; or if an input could not be solved, with the reason.
    """

    solution = solve_nodes(g, v, wires, cell)
    require(solution.outcome.solved, solution.outcome.value)
    return solution.column_currents


@dataclass(frozen=True, eq=False)
class Solution:
    """A solved tile. Shapes are for one input; several inputs add a first axis.

    Args:
        word_voltages, bit_voltages: V at both ends of each cell, (rows, cols).
        cell_currents: A from word line to bit line, (rows, cols).
        column_currents: A into the sense of each bit line, (cols,).
        power: W that the sources deliver, ().
        residual: the largest violation of Kirchhoff's laws, in V, (): how far the drop along any segment is
            from its resistance times the current that the cells send through it.
        steps: of the solver, ().
        outcomes: of each input.
    """

    word_voltages: Float64
    bit_voltages: Float64
    cell_currents: Float64
    column_currents: Float64
    power: Float64
    residual: Float64
    steps: NDArray[np.int64]
    outcomes: tuple[Outcome, ...]

    @property
    def outcome(self) -> Outcome:
        """The worst of the outcomes."""
        bad = [outcome for outcome in self.outcomes if not outcome.solved]
        return bad[0] if bad else self.outcomes[0]


def solve_nodes(g: NDArray[np.floating], v: ArrayLike, wires: Wires, cell: Cell | None = None) -> Solution:
    """Solve a tile for every node: Kirchhoff's laws with the resistance of the wires.

    Whether it succeeded is in the solution's `outcome`, which tells what to do where it did not.

    Args:
        g: cells of one tile, (rows, cols) in S; 0 is an open cell.
        v: source voltages, (rows,) or (inputs, rows), in V.
        wires: resistances, method and tolerance.
        cell: the law of cells that are not ohmic, with `g` at small voltages; None: ohmic.

    Raises:
        InputError: if shapes do not fit, or a value is no number or outside what a cell's law holds for.
    """
    g = check_cells(g)
    require(g.size > 0, f"g has shape {g.shape}: a tile needs a cell")
    sources = np.asarray(v, np.float64)
    fits = sources.ndim in (1, 2) and sources.shape[-1] == len(g) and sources.size > 0
    require(
        fits,
        f"v has shape {sources.shape}: expected ({len(g)},) or (inputs, {len(g)}) for {len(g)} word lines",
    )
    inputs = np.atleast_2d(sources)
    largest = float(np.max(np.abs(inputs)))
    require(largest <= 1e6, f"v holds {largest} V: each voltage must be in -1e6 .. 1e6 V")  # NaN fails too
    if cell is not None:
        span = float(np.max(np.maximum(inputs.max(axis=1), 0) - np.minimum(inputs.min(axis=1), 0)))
        cell.check(g, span)
    lines = factor_lines(g, wires)
    exactly = wires.method == "exact" and cell is None
    voltages = solve_exactly(g, inputs, wires, lines) if exactly else []
    parts: list[Solution | None] = [None] * len(inputs)

    def solve(k: int) -> None:
        if cell is not None:
            parts[k] = _solution(g, inputs[k], wires, *solve_newton(g, inputs[k], wires, cell))
            return
        solved = voltages[k] if exactly else solve_linear(g, inputs[k], wires, lines)
        parts[k] = _solution(g, inputs[k], wires, solved, g * (solved.words - solved.bits))

    threads.run(solve, range(len(inputs)))
    done = [part for part in parts if part is not None]
    if sources.ndim == 1:
        return done[0]

    def stack(name: str) -> Any:
        return np.stack([getattr(part, name) for part in done])

    return Solution(
        word_voltages=stack("word_voltages"),
        bit_voltages=stack("bit_voltages"),
        cell_currents=stack("cell_currents"),
        column_currents=stack("column_currents"),
        power=stack("power"),
        residual=stack("residual"),
        steps=stack("steps"),
        outcomes=tuple(part.outcomes[0] for part in done),
    )


def _solution(g: Float64, v: Float64, wires: Wires, solved: Voltages, currents: Float64) -> Solution:
    """The solution for one input, from its voltages and cell currents."""
    near, ground = wires.r_word + wires.r_source, wires.r_bit + wires.r_sense
    residual = mismatch(
        v, solved.words, solved.bits, currents,
        near, wires.r_word, far_conductance(wires), wires.r_bit, ground, np.empty(g.shape[1]),
    )  # fmt: skip
    columns = solved.bits[-1] / ground if ground else currents.sum(axis=0)
    power = v @ currents.sum(axis=1)
    return Solution(
        solved.words,
        solved.bits,
        currents,
        columns,
        np.asarray(power),
        np.asarray(residual),
        np.asarray(solved.steps),
        (solved.outcome,),
    )


# All inputs of a tile, against what it would compute without wires

_AT_ONCE = 2**22
"""Cells times inputs that are solved together: node voltages of all inputs may not fit into memory."""


class SolvedInputs(NamedTuple):
    """Of all inputs: currents in A, (inputs, cols); power in W and residual in V, (inputs,)."""

    currents: Float64
    ideal: Float64
    power: Float64
    residual: Float64

    @property
    def worst(self) -> int:
        """The input that loses most, against its largest ideal current."""
        size = np.abs(self.ideal).max(axis=1)
        lost = np.abs(self.currents - self.ideal).max(axis=1)
        return int(np.argmax(lost / np.where(size > 0, size, 1)))

    def as_dict(self, rows: int, wires: Wires, cell: str | None) -> dict[str, Any]:
        """The solution as JSON, in SI units.

        Args:
            rows: word lines of the tile.
            wires: its resistances, and the method.
            cell: the law of the cells as it was given, such as "milo2021"; None: ohmic.
        """
        return {
            "rows": rows,
            "cols": self.currents.shape[1],
            "inputs": len(self.currents),
            "wires": {name: getattr(wires, name) for name in wires.__dataclass_fields__},
            "nonlinear": cell,
            "currents_A": self.currents.tolist(),
            "ideal_A": self.ideal.tolist(),
            "power_W": self.power.tolist(),
            "residual_V": self.residual.tolist(),
        }


def solve_inputs(g: Float64, v: Float64, wires: Wires, cell: Cell | None) -> SolvedInputs:
    """Solve a tile for all inputs.

    Args:
        g: conductances, (rows, cols) in S; 0: open.
        v: input voltages, (inputs, rows) in V.
        wires: their resistances, and the method.
        cell: the law of the cells; None: ohmic.

    Raises:
        InputError: with the outcome's sentence, if an input cannot be solved.
    """
    step = max(1, _AT_ONCE // g.size)
    currents, power, residual = [], [], []
    for start in range(0, len(v), step):
        part = solve_nodes(g, v[start : start + step], wires, cell)
        for k, outcome in enumerate(part.outcomes):
            if not outcome.solved:
                raise InputError(f"input {start + k + 1} is {outcome.value}")
        currents.append(part.column_currents)
        power.append(part.power)
        residual.append(part.residual)
    return SolvedInputs(
        np.vstack(currents), ideal_currents(g, v, cell), np.concatenate(power), np.concatenate(residual)
    )


def ideal_currents(g: Float64, v: Float64, cell: Cell | None) -> Float64:
    """Column currents without wires, (inputs, cols) in A."""
    if cell is None:
        return np.asarray(v @ g)
    return np.array(
        [cell.current(g, np.repeat(row[:, None], g.shape[1], axis=1))[0].sum(axis=0) for row in v]
    )
