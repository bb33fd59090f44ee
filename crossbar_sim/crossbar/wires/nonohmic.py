"""Cells that are not ohmic: Newton's method on the whole circuit, anew for every input.

Such an array is not linear in its inputs: there are no effective conductances, and each input costs several
solutions of the circuit. Compare `Wires.effective`, which pays once and then multiplies.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossbar_sim.crossbar.checks import require
from crossbar_sim.crossbar.wires.cells import Cell
from crossbar_sim.crossbar.wires.linear import Voltages, solve_linear
from crossbar_sim.crossbar.wires.outcome import Outcome
from crossbar_sim.crossbar.wires.wires import Float64, Wires

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
    from crossbar_sim.crossbar.wires.nodes import solve_nodes

    solution = solve_nodes(g, v, wires, cell)
    require(solution.outcome.solved, solution.outcome.value)
    return solution.column_currents
