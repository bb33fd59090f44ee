"""The kernel of the fast method: a sweep along all word lines, then one along all bit lines, for many inputs.

Rules as in line_kernels.py; equations are those of docs/wires.md.
"""

from typing import Any

from crossbar_sim.crossbar.philox import kernel
from crossbar_sim.crossbar.wires.lanes import LANES, set_to, set_to_sum


@kernel
def sweep(
    g: Any, word_a: Any, word_b: Any, bit_a: Any, bit_b: Any, drive: Any,
    first: Any, last: Any, begin: Any, x: Any, t: Any, sensed: Any,
) -> None:  # fmt: skip
    """One step of Eq. (W7), in place, for the inputs first .. last - 1, of 1 V each in a lane of its own.

    Args:
        g, word_a, word_b, bit_a, bit_b, drive: (rows, cols), of `Lines`.
        first, last: word lines driven; at most LANES.
        begin: whether x is 0 as yet (and is not read).
        x: bit-line voltages, (rows, cols, LANES) flat, before and after.
        t: work, (cols, LANES) flat.
        sensed: out, (cols, LANES) flat: the new voltages of the last row.
    """
    rows, cols = g.shape
    line = cols * LANES
    for i in range(rows):
        k = i * line
        if begin:
            t[:] = 0.0
        else:
            q = line - LANES
            set_to(t, q, g[i, cols - 1], x, k + q)
            for j in range(cols - 2, -1, -1):
                q = j * LANES
                set_to_sum(t, q, g[i, j], x, k + q, word_b[i, j + 1], t, q + LANES)
            set_to(t, 0, word_a[i, 0], t, 0)
            for j in range(1, cols):
                q = j * LANES
                set_to_sum(t, q, word_a[i, j], t, q, word_b[i, j], t, q - LANES)
        if first <= i < last:
            for j in range(cols):
                t[j * LANES + i - first] += drive[i, j]
        for j in range(cols):
            q = j * LANES
            if i == 0:
                set_to(x, q, g[i, j], t, q)
            else:
                set_to_sum(x, k + q, g[i, j], t, q, bit_b[i - 1, j], x, k - line + q)
    k = (rows - 1) * line
    for j in range(cols):
        q = j * LANES
        set_to(x, k + q, bit_a[rows - 1, j], x, k + q)
        set_to(sensed, q, 1.0, x, k + q)


@kernel
def sweep_back(bit_a: Any, bit_b: Any, x: Any) -> None:
    """The second half of `sweep`: from the last row, which is done, back to the first."""
    rows, cols = bit_a.shape
    line = cols * LANES
    for i in range(rows - 2, -1, -1):
        k = i * line
        for j in range(cols):
            q = k + j * LANES
            set_to_sum(x, q, bit_a[i, j], x, q, bit_b[i, j], x, q + line)
