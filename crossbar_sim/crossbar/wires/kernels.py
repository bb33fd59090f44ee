"""Kernels of wires: factorisation and solution of lines, sweeps over right-hand sides, conjugate gradients."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from crossbar_sim.crossbar.kernels import kernel

# Vectors of eight doubles: the two operations of the sweeps over many right-hand sides.
#
# LLVM does not find these vectors by itself, since any two arrays might overlap. Written as vectors of eight they
# become one 512-bit instruction, two of 256 bits or four of 128, whatever the machine has, and a product with its
# sum is fused where it can be. With the JIT off the same functions are plain NumPy.


LANES = 8
"""Number of right-hand sides that are solved together."""

_VECTOR = ir.VectorType(ir.DoubleType(), LANES)
_ALIGN = 8  # bytes: an array of doubles is aligned to no more


def set_to(out: Any, k: Any, a: Any, x: Any, i: Any) -> None:
    """out[k : k + LANES] = a x[i : i + LANES]; out and x are flat, k and i multiples of LANES."""
    out[k : k + LANES] = a * x[i : i + LANES]


def set_to_sum(out: Any, k: Any, a: Any, x: Any, i: Any, b: Any, y: Any, j: Any) -> None:
    """out = a x + b y, in lanes from k, i and j on."""
    out[k : k + LANES] = a * x[i : i + LANES] + b * y[j : j + LANES]


def _vector_operation(terms: int) -> tuple[Any, Callable[..., Any]]:
    """Signature and code of an intrinsic: arguments out, k, then (factor, array, index) for each term."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        def address(array: int) -> Any:
            data = context.make_array(signature.args[array])(context, builder, args[array]).data
            place = builder.gep(data, [args[array + 1]])
            return builder.bitcast(place, _VECTOR.as_pointer())

        fused = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{LANES}f64"
        )
        total = None
        for term in range(terms):
            factor = 2 + 3 * term
            value = builder.load(address(factor + 1), align=_ALIGN)
            single = builder.insert_element(
                ir.Constant(_VECTOR, ir.Undefined), args[factor], cgutils.int32_t(0)
            )
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            everywhere = builder.shuffle_vector(single, ir.Constant(_VECTOR, ir.Undefined), zeros)
            if total is None:
                total = builder.fmul(everywhere, value)
            else:
                total = builder.call(fused, [everywhere, value, total])
        builder.store(total, address(0), align=_ALIGN)
        return context.get_dummy_value()

    flat, at = types.Array(types.float64, 1, "C"), types.int64
    return types.void(flat, at, *(types.float64, flat, at) * terms), generate


@intrinsic
def _one(typing_context: Any, out: Any, k: Any, a: Any, x: Any, i: Any) -> Any:
    return _vector_operation(1)


@intrinsic
def _two(typing_context: Any, out: Any, k: Any, a: Any, x: Any, i: Any, b: Any, y: Any, j: Any) -> Any:
    return _vector_operation(2)


@overload(set_to, inline="always")
def _set_to(out, k, a, x, i):  # type: ignore[no-untyped-def]
    return lambda out, k, a, x, i: _one(out, k, a, x, i)  # type: ignore[call-arg]


@overload(set_to_sum, inline="always")
def _set_to_sum(out, k, a, x, i, b, y, j):  # type: ignore[no-untyped-def]
    return lambda out, k, a, x, i, b, y, j: _two(out, k, a, x, i, b, y, j)  # type: ignore[call-arg]


# Kernels for lines of resistors: word lines and bit lines solved exactly.
#
# A line is a ladder. Its near terminal is a voltage source (word line) or ground (bit line); then a resistance,
# a node, a resistance, a node, ... At each node a conductance leaves (a cell). Everything is written in what the
# line draws beyond a node, so nothing is subtracted, every result has a small relative error, and neither a
# segment of 0 ohm nor an open cell is a special case: docs/wires.md, Eq. (W1)-(W3).
#
# Rules: scalars and C-contiguous float64 arrays in, results written into arrays given; no allocation, no
# exceptions, no fastmath. Numba's cache looks at the time stamp of the calling file alone, so kernels that call one
# another stay in one file.


@kernel
def factor_words(g: Any, near: Any, segment: Any, far: Any, a: Any, b: Any, drive: Any) -> None:
    """Eq. (W2) for all word lines: the factors of their sweeps.

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
                drive[k, j] = draws * share  # stored here until the second pass
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
            draws = g[i, j] + more * sense[above, j]  # stored here until the second pass
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
    """Eq. (W6): out = K x: the effect of bit-line voltages x on the bit lines through the word lines; (rows, cols)."""
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


# The kernel of the fast method: a sweep along all word lines, then one along all bit lines, for many inputs.
#
# Rules as above; equations are those of docs/wires.md.


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


# The fast method for one input: conjugate gradients, each step a sweep along all lines.
#
# Unlike the sweeps of many inputs it needs no bound on the spectrum in advance and is not slowed down by a few
# near-shorts, each of which costs one more step. Rules as above; equations of docs/wires.md.


ROUNDING = 1e-15
"""Convergence limit of the energy norm, as a fraction of its first value: rounding prevents a further decrease."""


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
