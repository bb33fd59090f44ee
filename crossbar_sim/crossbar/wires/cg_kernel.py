"""The fast method for one input: conjugate gradients, each step a sweep along all lines.

Unlike the sweeps of many inputs it needs no bound on the spectrum in advance and is not slowed down by a few
near-shorts, each of which costs one more step. Rules as in line_kernels.py; equations of docs/wires.md.
"""

from typing import Any

from crossbar_sim.crossbar.philox import kernel
from crossbar_sim.crossbar.wires.line_kernels import solve_bits, solve_words

ROUNDING = 1e-15
"""The energy norm falls no further than this part of its first value."""


@kernel
def inner(x: Any, y: Any, sums: Any) -> Any:
    """The sum of x y, (rows, cols), column by column first: many sums at once need no reordering."""
    rows, cols = x.shape
    sums[:] = 0.0
    for i in range(rows):
        for j in range(cols):
            sums[j] += x[i, j] * y[i, j]
    total = 0.0
    for j in range(cols):
        total += sums[j]
    return total


@kernel
def conjugate_gradients(
    g: Any, word_a: Any, word_b: Any, bit_a: Any, bit_b: Any,
    r: Any, bound: Any, most: Any, x: Any, z: Any, p: Any, y: Any, q: Any, sums: Any,
) -> Any:  # fmt: skip
    """Eq. (W12): bit-line voltages x for currents r into bit-line nodes, word-line sources at 0 V.

    Args:
        g, word_a, word_b, bit_a, bit_b: (rows, cols), of `Lines`.
        r: A, (rows, cols); what is left of it at the end.
        bound: stops when r . z <= bound (largest |x| of the last row)^2, in S.
        most: steps.
        x: out, V, (rows, cols).
        z, p, y, q: work, (rows, cols).
        sums: work, (cols,).

    Returns:
        Steps, or -1 where `most` were not enough or rounding came first. r is kept up rather than formed, so
        whoever promises a tolerance checks what is left (`solve_linear`).
    """
    rows, cols = g.shape
    x[:] = 0.0
    p[:] = 0.0
    y[:] = 0.0
    z[:] = r
    solve_bits(z, bit_a, bit_b)
    rz = inner(r, z, sums)
    first, share = rz, 0.0
    if not rz > 0.0:
        return 0 if rz == 0.0 else -1
    for step in range(1, most + 1):
        for i in range(rows):
            for j in range(cols):
                p[i, j] = z[i, j] + share * p[i, j]
                q[i, j] = g[i, j] * p[i, j]
        solve_words(q, word_a, word_b)
        for i in range(rows):
            for j in range(cols):  # y = M p, kept up rather than formed: M of a segment of 0 ohm is infinite
                y[i, j] = r[i, j] + share * y[i, j]
                q[i, j] = y[i, j] - g[i, j] * q[i, j]
        pq = inner(p, q, sums)
        if not pq > 0.0:
            return -1
        length = rz / pq
        for i in range(rows):
            for j in range(cols):
                x[i, j] += length * p[i, j]
        for i in range(rows):
            for j in range(cols):
                r[i, j] -= length * q[i, j]
                z[i, j] = r[i, j]
        solve_bits(z, bit_a, bit_b)
        share, rz = 1.0 / rz, inner(r, z, sums)
        share *= rz
        largest = 0.0
        for j in range(cols):
            largest = max(largest, abs(x[rows - 1, j]))
        if not rz > ROUNDING * ROUNDING * first:  # below 0 too: z has lost its sign to rounding
            return step if rz == 0.0 or 0.0 < rz <= bound * largest * largest else -1
        if rz <= bound * largest * largest:
            return step
    return -1
