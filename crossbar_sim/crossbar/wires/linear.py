"""One linear circuit solved for one input: the step that `solve_nodes` repeats."""

from typing import NamedTuple

import numpy as np

from crossbar_sim.crossbar.wires import line_kernels as kernels
from crossbar_sim.crossbar.wires.cg_kernel import conjugate_gradients
from crossbar_sim.crossbar.wires.exact import fits_memory, word_voltages
from crossbar_sim.crossbar.wires.lines import Lines, factor_lines
from crossbar_sim.crossbar.wires.outcome import Outcome
from crossbar_sim.crossbar.wires.wires import Float64, Wires

MOST_STEPS = 500


class Voltages(NamedTuple):
    """Of the nodes, (rows, cols) in V, and how they came about."""

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
    """r . z of Eq. (W12), in W, formed anew: the r that conjugate gradients keep up drifts away from it.

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
