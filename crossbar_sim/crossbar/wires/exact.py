"""Block elimination: effective conductances to rounding, column by column with dense algebra.

About 3.3 cols rows^3 multiplications, by LAPACK, in the memory of a few (rows, rows + cols) matrices.
"""

import numpy as np
from scipy.linalg import lapack

from crossbar_sim.crossbar.checks import require
from crossbar_sim.crossbar.wires import line_kernels as kernels
from crossbar_sim.crossbar.wires.lines import Lines, factor_lines, far_conductance
from crossbar_sim.crossbar.wires.wires import Float64, Wires

MEMORY = 2 << 30
"""Bytes that the factors for node voltages may take."""


def eliminate(g: Float64, wires: Wires) -> Float64:
    """Effective conductances of a tile, (rows, cols) in S: docs/wires.md, Eq. (W9)-(W11).

    From the last column to the first three maps are carried along, all of the word-line voltages at the
    present column: the currents drawn from it on (`drawn`), the column currents sensed so far (`sensed`), and,
    with sources at the far ends, what these push back (`pushed`) and add to the column currents (`extra`).
    """
    rows, cols = g.shape
    near = wires.r_word + wires.r_source
    far = far_conductance(wires)
    lines = factor_lines(g, wires)
    z = np.empty((rows, rows))
    # [drawn | sensed | pushed] side by side, (rows, ...) in Fortran's order, for LAPACK.
    state = np.zeros((rows, rows + cols + (rows if far else 0)), order="F")
    drawn, sensed, pushed = state[:, :rows], state[:, rows : rows + cols], state[:, rows + cols :]
    extra = np.zeros((rows, cols))
    diagonal = np.arange(rows)
    if far:
        drawn[diagonal, diagonal] = pushed[diagonal, diagonal] = far
    for j in range(cols - 1, -1, -1):
        cells = g[:, j]
        # Eq. (W9): what column j draws from its word-line nodes, D - D Z D with its bit line's Z.
        kernels.impedance(lines.bit_a[::-1, j].copy(), lines.bit_b[::-1, j].copy(), z)
        drawn -= cells[:, None] * z[::-1, ::-1] * cells
        drawn[diagonal, diagonal] += cells
        sensed[:, j] = cells * lines.sense[:, j]
        series = wires.r_word if j else near
        if series == 0:
            continue
        factor = _factor(drawn, series)
        before = pushed.copy()
        # Eq. (W10): to the left of the resistance. Columns before j have sensed nothing yet.
        for part in (drawn, state[:, rows + j :]):
            part[:] = lapack.dpotrs(factor, part, lower=1)[0]
        if far:
            extra[:, j:] += series * (before.T @ sensed[:, j:])
    return np.ascontiguousarray(sensed + extra)


def fits_memory(rows: int, cols: int) -> bool:
    """Whether the factors that `word_voltages` keeps do."""
    return 8 * rows * rows * cols <= MEMORY


def word_voltages(g: Float64, v: Float64, wires: Wires, lines: Lines, extra: Float64) -> Float64:
    """Voltages of all word-line nodes, (inputs, rows, cols) in V: Eq. (W9)-(W11) with back substitution.

    Args:
        g: cells, (rows, cols) in S.
        v: sources, (inputs, rows) in V.
        wires, lines: of the tile.
        extra: (rows, cols) in A, what cells carry beside g times their voltage.

    Raises:
        InputError: if the factors, one (rows, rows) matrix for each column, would need too much memory.
    """
    rows, cols = g.shape
    require(
        fits_memory(rows, cols),
        f"the exact method would keep {8e-9 * rows * rows * cols:.3g} GB for the node voltages of a "
        f"{rows}x{cols} tile, above {MEMORY / 1e9:.3g} GB: use the fast method with a small tolerance",
    )
    near = wires.r_word + wires.r_source
    far = far_conductance(wires)
    z = np.empty((rows, rows))
    diagonal = np.arange(rows)
    # What is drawn from the present column on is `drawn` times its voltages, plus `offset`.
    drawn, offset = np.zeros((rows, rows), order="F"), -far * v.T
    drawn[diagonal, diagonal] = far
    factors: list[Float64 | None] = [None] * cols
    offsets = np.empty((cols, rows, len(v)))
    for j in range(cols - 1, -1, -1):
        cells = g[:, j]
        kernels.impedance(lines.bit_a[::-1, j].copy(), lines.bit_b[::-1, j].copy(), z)
        through = cells[:, None] * z[::-1, ::-1]
        drawn -= through * cells
        drawn[diagonal, diagonal] += cells
        offset = offset + (extra[:, j] - through @ extra[:, j])[:, None]
        offsets[j] = offset
        series = wires.r_word if j else near
        if series == 0:
            continue
        factor = _factor(drawn, series)
        factors[j] = factor
        drawn = lapack.dpotrs(factor, drawn, lower=1)[0]
        offset = lapack.dpotrs(factor, offset, lower=1)[0]
    words, before = np.empty((len(v), rows, cols)), v.T
    for j in range(cols):
        factor_j = factors[j]
        if factor_j is not None:
            series = wires.r_word if j else near
            before = lapack.dpotrs(factor_j, before - series * offsets[j], lower=1)[0]
        words[:, :, j] = before.T
    return words


def _factor(drawn: Float64, series: float) -> Float64:
    """Cholesky's factor of 1 + series drawn."""
    matrix = np.asfortranarray(series * drawn)
    matrix[np.diag_indices(len(matrix))] += 1.0
    factor, failed = lapack.dpotrf(matrix, lower=1, overwrite_a=1)
    assert not failed, "1 + r Y is positive definite"
    return np.asarray(factor)
