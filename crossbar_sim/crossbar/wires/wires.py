"""Wire resistance of a tile, and the effective conductances that it causes."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.wires import kernels
from crossbar_sim.crossbar.wires.kernels import LANES
from crossbar_sim.validate import number, require, show, unknown

Float64 = NDArray[np.float64]

Inputs = Literal["one", "both"]
Method = Literal["fast", "exact"]

_OHM = "a resistance must be 0 ohm (ideal) or in 1e-9 .. 1e9 ohm"


@dataclass(frozen=True)
class Wires:
    """Resistance of the lines of one tile; docs/wires.md draws the circuit.

    A word line has a segment before its first cell, a bit line one after its last, at grounded sense.

    Args:
        r_word: of one segment of a word line, in ohm. 0: ideal.
        r_bit: of one segment of a bit line, in ohm.
        r_source: of the driver of a word line, in ohm, in series with its first segment.
        r_sense: of the sense circuit of a bit line, in ohm, in series with its last segment.
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
        number(self, "tolerance", "a tolerance must be in 1e-12 .. 0.1", 1e-12, 0.1)
        for name, choices in (("inputs", get_args(Inputs)), ("method", get_args(Method))):
            require(getattr(self, name) in choices, unknown(name, getattr(self, name), choices))

    @property
    def ideal(self) -> bool:
        """Whether all lines are ideal: currents are then v @ g."""
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
            f"g holds conductances from {show(low)} to {show(high)} S: each must be in 0 (open) .. 1e6 S",
        )
    return g


# A tile's lines, factored once for any number of inputs.


class Lines(NamedTuple):
    """The factors of sweeps along word lines and bit lines; all (rows, cols).

    Args:
        word_a, word_b, bit_a, bit_b: Eq. (W2) of docs/wires.md: a in ohm, b a share.
        drive: voltage of each word-line node while all bit lines are held at 0 V and the line's source is at
            1 V (both its sources, where it has two).
        sense: the part of a current into each bit-line node that is sensed while all word lines are held at 0 V.
    """

    word_a: Float64
    word_b: Float64
    bit_a: Float64
    bit_b: Float64
    drive: Float64
    sense: Float64


def factor_lines(g: Float64, wires: Wires) -> Lines:
    """Factor the lines of a tile, (rows, cols) in S; any of them may be ideal."""
    near = wires.r_word + wires.r_source
    far = far_conductance(wires)
    word_a, word_b, bit_a, bit_b, drive, sense = (np.empty_like(g) for _ in range(6))
    kernels.factor_words(g, near, wires.r_word, far, word_a, word_b, drive)
    if far:  # the second source sees the line mirrored
        mirrored = np.ascontiguousarray(g[:, ::-1])
        kernels.factor_words(mirrored, near, wires.r_word, far, bit_a, bit_b, sense)
        drive += sense[:, ::-1]
    kernels.factor_bits(g, wires.r_bit + wires.r_sense, wires.r_bit, bit_a, bit_b, sense)
    return Lines(word_a, word_b, bit_a, bit_b, drive, sense)


def far_conductance(wires: Wires) -> float:
    """From a word line's last node to the source at its far end, in S; 0 where there is none, or all is ideal."""
    near = wires.r_word + wires.r_source
    return 1 / near if wires.inputs == "both" and near else 0.0


# Block elimination: effective conductances to rounding, column by column with dense algebra.
#
# About 3.3 cols rows^3 multiplications, by LAPACK, in the memory of a few (rows, rows + cols) matrices.


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


# Effective conductances of tiles, computed once for each programmed array; inputs then need a plain product only.


STEPS_WORTH = 24
"""Most sweeps: a tile that needs more is solved by elimination, which takes as long at 128x128 and is more accurate."""

ROUNDING = 1e-14
"""Relative error of a sweep's result: a generous bound."""


class Tile(NamedTuple):
    """One tile during its solution: cells, wires, factored lines and a bound on the spectrum of K, Eq. (W6)."""

    g: Float64
    wires: Wires
    lines: Lines
    bound: float


def effective_planes(planes: Sequence[Float64], wires: Wires) -> list[Float64]:
    """See `Wires.effective_planes`; planes are as `check_cells` gives them."""
    results = [g.copy() for g in planes]
    tiles: dict[int, Tile] = {}
    # By reciprocity a tile may be driven from its bit lines: where these are fewer, that is less work.
    turned = {k for k, g in enumerate(planes) if wires.inputs == "one" and g.shape[1] < g.shape[0]}
    mirrored = replace(
        wires, r_word=wires.r_bit, r_bit=wires.r_word, r_source=wires.r_sense, r_sense=wires.r_source
    )

    def prepare(k: int) -> None:
        of_tile = mirrored if k in turned else wires
        g = turn(planes[k]) if k in turned else planes[k]
        lines = factor_lines(g, of_tile)
        if wires.ideal_bits or wires.ideal_words:  # Eq. (W5): no sweep has anything to add
            results[k] = _turned_back(g * lines.drive * lines.sense, k in turned)
        else:
            bound = spectral_bound(g, lines) if wires.method == "fast" else 1.0
            tiles[k] = Tile(g, of_tile, lines, bound)
            results[k] = np.empty_like(g)

    if not wires.ideal:
        threads.run(prepare, [k for k, g in enumerate(planes) if g.size])
    work = threading.local()
    hard: set[int] = set()

    def drive(item: tuple[int, slice]) -> None:
        k, part = item
        if k not in hard and not _swept(tiles[k], part, work, results[k]):
            hard.add(k)

    threads.run(drive, [(k, part) for k in tiles for part in threads.chunks(len(tiles[k].g), LANES)])

    def finish(k: int) -> None:
        if k in hard:
            results[k] = eliminate(tiles[k].g, tiles[k].wires)
        results[k] = _turned_back(results[k], k in turned)

    threads.run(finish, tiles)
    return results


def turn(g: Float64) -> Float64:
    """Word lines as bit lines and the reverse, near ends staying near ends; its own inverse."""
    return np.ascontiguousarray(g[::-1, ::-1].T)


def _turned_back(g: Float64, turned: bool) -> Float64:
    return turn(g) if turned else g


def spectral_bound(g: Float64, lines: Lines) -> float:
    """A number that no eigenvalue of K exceeds; all of them are real and in 0 .. 1.

    K has no negative entry, so max (K x) / x is a bound for any x > 0 (Collatz 1942), and approaches the
    largest eigenvalue as x becomes its vector.
    """
    x, y, bound = np.ones_like(g), np.empty_like(g), 1.0
    for _ in range(4):
        kernels.couple(g, *lines[:4], x, y)
        bound = min(bound, float(np.max(np.divide(y, x, out=np.zeros_like(y), where=x > 0))))
        if not bound > 0:
            break
        x, y = y / y.max(), x
    return bound


def _swept(tile: Tile, part: slice, work: threading.local, out: Float64) -> bool:
    """Effective conductances of the rows `part` (at most LANES); False where sweeps are not worth it."""
    g, wires, lines, bound = tile
    if steps_for(bound, 1 / wires.tolerance) > STEPS_WORTH:
        return False
    cols, count = g.shape[1], part.stop - part.start
    if getattr(work, "shape", None) != g.shape:
        work.shape, work.x, work.t = g.shape, aligned(g.size * LANES), aligned(cols * LANES)
    x, sensed = work.x, []

    def sweep() -> None:
        sensed.append(aligned(cols * LANES))
        kernels.sweep(g, *lines[:5], part.start, part.stop, not sensed[1:], x, work.t, sensed[-1])

    sweep()
    kernels.sweep_back(lines.bit_a, lines.bit_b, x)
    ground = wires.r_bit + wires.r_sense
    rows = np.arange(part.start, part.stop)
    own = x.reshape(*g.shape, LANES)[rows, :, rows - part.start]  # what each input does along its own row
    energy = np.sum(g[part] * lines.drive[part] * own, axis=1)  # h . x after one step, (count,)
    currents = sensed[0].reshape(cols, LANES)[:, :count].max(axis=0) / ground
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.sqrt(energy / ((1 - bound) * ground)) / (wires.tolerance * currents)
    steps = steps_for(bound, float(np.max(needed, where=currents > 0, initial=1.0)))
    weights = combination(bound, steps)
    # The weights alternate in sign: what they cancel is lost to rounding.
    if steps > STEPS_WORTH or float(np.abs(weights).sum()) * ROUNDING > wires.tolerance:
        return False
    for step in range(1, steps):
        sweep()
        if step < steps - 1:
            kernels.sweep_back(lines.bit_a, lines.bit_b, x)
    total: Float64 = weights @ np.stack(sensed)
    out[part] = total.reshape(cols, LANES)[:, :count].T / ground
    return True


def steps_for(bound: float, reduction: float) -> int:
    """Steps of Eq. (W8) that reduce the energy norm of the error by `reduction`, for a spectrum in 0 .. bound."""
    if not bound > 0 or reduction <= 1:
        return 1
    if bound >= 1:
        return STEPS_WORTH + 1
    return max(1, math.ceil(math.acosh(reduction) / math.acosh((2 - bound) / bound)))


def combination(bound: float, steps: int) -> Float64:
    """Eq. (W8): the weights of the results of steps 1, 2, ... in their sum; (steps,).

    The polynomial sum c_k t^k (with c_0, of the start from 0 V) that is 1 at t = 1 and smallest on 0 .. bound.
    """
    if not bound > 0:
        return np.eye(steps)[-1]
    argument = np.polynomial.Polynomial([-1, 2 / bound])
    chebyshev = np.polynomial.Chebyshev.basis(steps)(argument)
    coefficients = np.asarray(chebyshev.coef, np.float64) / float(chebyshev(1.0))
    return np.asarray(coefficients[1:])


def aligned(size: int) -> Float64:
    """An uninitialised array whose data start at a cache line: a vector of LANES never straddles two."""
    raw = np.empty(size + LANES)
    start = (-raw.ctypes.data // 8) % LANES
    return raw[start : start + size]
