"""Every voltage and current of a tile for given inputs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.checks import require
from crossbar_sim.crossbar.wires.cells import Cell
from crossbar_sim.crossbar.wires.line_kernels import mismatch
from crossbar_sim.crossbar.wires.linear import Voltages, solve_exactly, solve_linear
from crossbar_sim.crossbar.wires.lines import factor_lines, far_conductance
from crossbar_sim.crossbar.wires.nonohmic import solve_newton
from crossbar_sim.crossbar.wires.outcome import Outcome
from crossbar_sim.crossbar.wires.wires import Float64, Wires, check_cells


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
    require(largest <= 1e6, f"v holds {largest} V: each voltage must lie in -1e6 .. 1e6 V")  # NaN fails too
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
    """One input, once its voltages and cell currents are known."""
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
