"""Effective conductances of tiles: wires once for each programmed array, then a plain product for each input."""

import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.wires import line_kernels, sweep_kernels
from crossbar_sim.crossbar.wires.exact import eliminate
from crossbar_sim.crossbar.wires.lanes import LANES
from crossbar_sim.crossbar.wires.lines import Lines, factor_lines
from crossbar_sim.crossbar.wires.wires import Float64, Wires

STEPS_WORTH = 24
"""A tile that needs more sweeps is eliminated: these take as long at 128x128, and Eq. (W8) would lose its digits."""

ROUNDING = 1e-14
"""Of the result of a sweep, a generous bound."""


class Tile(NamedTuple):
    """One tile on its way: cells, wires, factored lines and a bound on the spectrum of K, Eq. (W6)."""

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
        line_kernels.couple(g, *lines[:4], x, y)
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
        sweep_kernels.sweep(g, *lines[:5], part.start, part.stop, not sensed[1:], x, work.t, sensed[-1])

    sweep()
    sweep_kernels.sweep_back(lines.bit_a, lines.bit_b, x)
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
            sweep_kernels.sweep_back(lines.bit_a, lines.bit_b, x)
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
    """Eq. (W8): with which weights the results of steps 1, 2, ... are added up; (steps,).

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
