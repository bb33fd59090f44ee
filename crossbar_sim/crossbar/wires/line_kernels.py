"""Kernels for lines of resistors: word lines and bit lines solved exactly.

A line is a ladder. Its near terminal is a voltage source (word line) or ground (bit line); then a resistance,
a node, a resistance, a node, ... At each node a conductance leaves (a cell). Everything is written in what the
line draws beyond a node, so nothing is subtracted, every result has a small relative error, and neither a
segment of 0 ohm nor an open cell is a special case: docs/wires.md, Eq. (W1)-(W3).

Rules: scalars and C-contiguous float64 arrays in, results written into arrays given; no allocation, no
exceptions, no fastmath. Compiled code is cached by the time stamp of the calling file alone: after editing this file
touch cg_kernel.py, and after editing lanes.py touch sweep_kernels.py.
"""

from typing import Any

from crossbar_sim.crossbar.philox import kernel


@kernel
def factor_words(g: Any, near: Any, segment: Any, far: Any, a: Any, b: Any, drive: Any) -> None:
    """Eq. (W2) for all word lines: what their sweeps multiply with.

    Args:
        g: cells, (rows, cols), S.
        near: resistance before a line's first node, ohm.
        segment: resistance between nodes, ohm.
        far: conductance from the last node to a source at the far end, S (0 without one).
        a: out, (rows, cols), ohm: of a node's current in its own voltage.
        b: out, (rows, cols): the share of the nearer neighbour's voltage, in 0 .. 1.
        drive: out, (rows, cols): node voltages for 1 V at the near source and 0 V everywhere else.
    """
    rows, cols = g.shape
    for i in range(0, rows, 8):  # eight lines at a time, see solve_words
        last = min(i + 8, rows)
        for j in range(cols - 1, -1, -1):
            before = near if j == 0 else segment
            for k in range(i, last):
                draws = g[k, j] + (drive[k, j + 1] if j < cols - 1 else far)
                share = 1.0 / (1.0 + before * draws)
                b[k, j] = share
                a[k, j] = before * share
                drive[k, j] = draws * share  # its place until the second pass
        for k in range(i, last):
            drive[k, 0] = b[k, 0]
        for j in range(1, cols):
            for k in range(i, last):
                drive[k, j] = b[k, j] * drive[k, j - 1]


@kernel
def factor_bits(g: Any, near: Any, segment: Any, a: Any, b: Any, sense: Any) -> None:
    """Eq. (W2) for all bit lines; ground is `near` ohm after the last row.

    Args:
        g, near, segment, a, b: as for `factor_words`.
        sense: out, (rows, cols): the part of a current into a node that reaches ground, word lines being at 0 V.
    """
    rows, cols = g.shape
    for j in range(cols):
        sense[0, j] = 0.0
    for i in range(rows):
        before = near if i == rows - 1 else segment
        above = max(i - 1, 0)
        more = 1.0 if i > 0 else 0.0
        for j in range(cols):
            draws = g[i, j] + more * sense[above, j]  # its place until the second pass
            share = 1.0 / (1.0 + before * draws)
            b[i, j] = share
            a[i, j] = before * share
            sense[i, j] = draws * share
    for j in range(cols):
        sense[rows - 1, j] = b[rows - 1, j]
    for i in range(rows - 2, -1, -1):
        for j in range(cols):
            sense[i, j] = b[i, j] * sense[i + 1, j]


@kernel
def solve_words(x: Any, a: Any, b: Any) -> None:
    """Eq. (W3) for all word lines, in place: currents into their nodes, A, become voltages, V; (rows, cols).

    Eight lines at a time: a line is a chain in which every operation waits for the one before.
    """
    rows, cols = x.shape
    whole = rows - rows % 8
    for i in range(0, whole, 8):
        for j in range(cols - 2, -1, -1):
            for k in range(8):
                x[i + k, j] += b[i + k, j + 1] * x[i + k, j + 1]
        for k in range(8):
            x[i + k, 0] *= a[i + k, 0]
        for j in range(1, cols):
            for k in range(8):
                x[i + k, j] = a[i + k, j] * x[i + k, j] + b[i + k, j] * x[i + k, j - 1]
    for i in range(whole, rows):
        for j in range(cols - 2, -1, -1):
            x[i, j] += b[i, j + 1] * x[i, j + 1]
        x[i, 0] *= a[i, 0]
        for j in range(1, cols):
            x[i, j] = a[i, j] * x[i, j] + b[i, j] * x[i, j - 1]


@kernel
def solve_bits(x: Any, a: Any, b: Any) -> None:
    """Eq. (W3) for all bit lines side by side, in place; ground is after the last row; all (rows, cols)."""
    rows, cols = x.shape
    for i in range(1, rows):
        for j in range(cols):
            x[i, j] += b[i - 1, j] * x[i - 1, j]
    for j in range(cols):
        x[rows - 1, j] *= a[rows - 1, j]
    for i in range(rows - 2, -1, -1):
        for j in range(cols):
            x[i, j] = a[i, j] * x[i, j] + b[i, j] * x[i + 1, j]


@kernel
def impedance(a: Any, b: Any, out: Any) -> None:
    """Eq. (W3) with 1 A into each node of one line in turn: out[i, k] = V at node i for 1 A into k."""
    nodes = a.size
    for i in range(nodes):
        for k in range(nodes):
            out[i, k] = 1.0 if i == k else 0.0
    for i in range(nodes - 2, -1, -1):
        for k in range(i + 1, nodes):
            out[i, k] = b[i + 1] * out[i + 1, k]
    for k in range(nodes):
        out[0, k] *= a[0]
    for i in range(1, nodes):
        for k in range(nodes):
            out[i, k] = a[i] * out[i, k] + b[i] * out[i - 1, k]


@kernel
def couple(g: Any, word_a: Any, word_b: Any, bit_a: Any, bit_b: Any, x: Any, out: Any) -> None:
    """Eq. (W6): out = K x: what bit-line voltages x do, by way of the word lines, to the bit lines; (rows, cols)."""
    rows, cols = g.shape
    for i in range(rows):
        for j in range(cols):
            out[i, j] = g[i, j] * x[i, j]
    solve_words(out, word_a, word_b)
    for i in range(rows):
        for j in range(cols):
            out[i, j] *= g[i, j]
    solve_bits(out, bit_a, bit_b)


@kernel
def mismatch(
    v: Any, words: Any, bits: Any, currents: Any, near: Any, word: Any, far: Any, bit: Any, ground: Any, sums: Any,
) -> Any:  # fmt: skip
    """Eq. (W13): the largest violation of Kirchhoff's laws, in V.

    Along every segment, of the voltage drop against resistance times the current that the cells draw through it;
    currents are summed, so that a segment of 0 ohm needs no division.

    Args:
        v: sources, (rows,), V.
        words, bits: node voltages, (rows, cols), V.
        currents: of cells, (rows, cols), A.
        near, word: ohm, before the first and between the other nodes of a word line.
        far: S, from its last node to a second source.
        bit, ground: ohm, between the nodes of a bit line and after the last.
        sums: work, (cols,).
    """
    rows, cols = words.shape
    worst = 0.0
    for i in range(rows):
        through = far * (words[i, cols - 1] - v[i])
        for j in range(cols - 1, -1, -1):
            through += currents[i, j]
            resistance = word if j else near
            before = words[i, j - 1] if j else v[i]
            worst = max(worst, abs(before - words[i, j] - resistance * through))
    for j in range(cols):
        sums[j] = 0.0
    for i in range(rows):
        last = i == rows - 1
        resistance = ground if last else bit
        for j in range(cols):
            sums[j] += currents[i, j]
            beyond = 0.0 if last else bits[i + 1, j]
            worst = max(worst, abs(bits[i, j] - beyond - resistance * sums[j]))
    return worst
