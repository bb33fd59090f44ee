"""A tile's lines, factored once for any number of inputs."""

from typing import NamedTuple

import numpy as np

from crossbar_sim.crossbar.wires import line_kernels as kernels
from crossbar_sim.crossbar.wires.wires import Float64, Wires


class Lines(NamedTuple):
    """What sweeps along word lines and bit lines multiply with; all (rows, cols).

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
