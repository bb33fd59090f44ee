"""The Numba kernels. Rules, held by review and tests:

* scalars and C-contiguous one-dimensional arrays in, results written into `out`, no allocation;
* no fastmath, no Python objects, no exceptions; equation numbers are those of docs/model.md;
* arrays of cells are flat, in the order of the stream (docs/randomness.md): bit line by bit line, so cell
  (r, c) of a matrix with `rows` rows has index c rows + r, which is the memory of torch's (out, in) weight;
* a chunk begins at cell `start`, a multiple of 256; `g` and `out` do not overlap (LLVM's overlap check would
  otherwise take the scalar loop).

Compiled code is cached by this file's time stamp alone: after editing philox.py, touch this file.
"""

from typing import Any

import numpy as np

from crossbar_sim.crossbar.philox import (
    GROUP,
    LANES,
    bits_of,
    exp2,
    f32,
    float_of,
    fma,
    i32,
    inlined,
    kernel,
    minus_two_ln,
    normals,
    philox,
    u32,
    u64,
    uniform,
)

_L1, _L2, _L3 = u64(LANES), u64(2 * LANES), u64(3 * LANES)
_GROUP = u64(GROUP)


@inlined
def word_at(cell: Any, k0: Any, k1: Any, plane: Any, chip: Any, event: Any) -> Any:
    """The word of one cell: word (cell mod 256) div 64 of counter 64 (cell div 256) + cell mod 64."""
    counter = (cell >> u64(8)) * u64(64) + (cell & u64(63))
    a, b, c, d = philox(counter, u64(plane), u64(chip), u64(event), u64(k0), u64(k1))
    which = (cell >> u64(6)) & u64(3)
    first = a if which == u64(0) else b
    second = c if which == u64(2) else d
    return first if which < u64(2) else second


@inlined
def normal_at(cell: Any, k0: Any, k1: Any, plane: Any, chip: Any, event: Any) -> Any:
    """The standard normal of one cell: words 0 and 1 of a counter make one pair, 2 and 3 the other."""
    counter = (cell >> u64(8)) * u64(64) + (cell & u64(63))
    a, b, c, d = philox(counter, u64(plane), u64(chip), u64(event), u64(k0), u64(k1))
    which = (cell >> u64(6)) & u64(3)
    z0, z1 = normals(a if which < u64(2) else c, b if which < u64(2) else d)
    return z0 if (which & u64(1)) == u64(0) else z1


@kernel
def fill_words(out: Any, start: Any, k0: Any, k1: Any, plane: Any, chip: Any, event: Any) -> None:
    """out[i] = the uint32 of cell start + i."""
    groups = out.size // GROUP
    for q in range(groups):
        base = u64(q) * _GROUP
        counter = (u64(start) >> u64(2)) + u64(q * LANES)
        for j in range(_L1):
            a, b, c, d = philox(counter + j, u64(plane), u64(chip), u64(event), u64(k0), u64(k1))
            out[base + j] = a
            out[base + _L1 + j] = b
            out[base + _L2 + j] = c
            out[base + _L3 + j] = d
    for i in range(groups * GROUP, out.size):
        out[i] = word_at(u64(start + i), k0, k1, plane, chip, event)


@kernel
def fill_normals(out: Any, start: Any, k0: Any, k1: Any, plane: Any, chip: Any, event: Any) -> None:
    """out[i] = the standard normal of cell start + i."""
    groups = out.size // GROUP
    for q in range(groups):
        base = u64(q) * _GROUP
        counter = (u64(start) >> u64(2)) + u64(q * LANES)
        for j in range(_L1):
            a, b, c, d = philox(counter + j, u64(plane), u64(chip), u64(event), u64(k0), u64(k1))
            z0, z1 = normals(a, b)
            z2, z3 = normals(c, d)
            out[base + j] = z0
            out[base + _L1 + j] = z1
            out[base + _L2 + j] = z2
            out[base + _L3 + j] = z3
    for i in range(groups * GROUP, out.size):
        out[i] = normal_at(u64(start + i), k0, k1, plane, chip, event)


@kernel
def lognormal(
    g: Any, out: Any, factor: Any, high: Any, low: Any,
    start: Any, k0: Any, k1: Any, plane: Any, chip: Any, event: Any,
) -> None:  # fmt: skip
    """Eq. (8), (15): out = factor g 2^((high + low) z), read, drawn and written in one pass."""
    groups = out.size // GROUP
    for q in range(groups):
        base = u64(q) * _GROUP
        counter = (u64(start) >> u64(2)) + u64(q * LANES)
        for j in range(_L1):
            a, b, c, d = philox(counter + j, u64(plane), u64(chip), u64(event), u64(k0), u64(k1))
            z0, z1 = normals(a, b)
            z2, z3 = normals(c, d)
            out[base + j] = f32(g[base + j] * factor) * exp2(high, low, z0)
            out[base + _L1 + j] = f32(g[base + _L1 + j] * factor) * exp2(high, low, z1)
            out[base + _L2 + j] = f32(g[base + _L2 + j] * factor) * exp2(high, low, z2)
            out[base + _L3 + j] = f32(g[base + _L3 + j] * factor) * exp2(high, low, z3)
    for i in range(groups * GROUP, out.size):
        z = normal_at(u64(start + i), k0, k1, plane, chip, event)
        out[i] = f32(g[i] * factor) * exp2(high, low, z)


@inlined
def _drifted_weight(w: Any, scale: Any, inverse: Any, factor: Any, high: Any, low: Any, z: Any) -> Any:
    """Eq. (2), (8), (5) for one weight; adding 0 makes -0 the +0 that a pair of cells reads as."""
    g = f32(f32(w * scale) * factor) * exp2(high, low, z)
    return f32(g * inverse) + f32(0.0)


@kernel
def lognormal_weights(
    w: Any, out: Any, scale: Any, inverse: Any, factor: Any, high: Any, low: Any,
    start: Any, k0: Any, k1: Any, plane: Any, chip: Any, event: Any,
) -> None:  # fmt: skip
    """Program, drift and read weights with g_min = 0 in one pass: the pair's other cell carries nothing.

    The same operations in the same order as by way of planes, so the same bits.
    """
    groups = out.size // GROUP
    for q in range(groups):
        base = u64(q) * _GROUP
        counter = (u64(start) >> u64(2)) + u64(q * LANES)
        for j in range(_L1):
            a, b, c, d = philox(counter + j, u64(plane), u64(chip), u64(event), u64(k0), u64(k1))
            z0, z1 = normals(a, b)
            z2, z3 = normals(c, d)
            i = base + j
            out[i] = _drifted_weight(w[i], scale, inverse, factor, high, low, z0)
            i = base + _L1 + j
            out[i] = _drifted_weight(w[i], scale, inverse, factor, high, low, z1)
            i = base + _L2 + j
            out[i] = _drifted_weight(w[i], scale, inverse, factor, high, low, z2)
            i = base + _L3 + j
            out[i] = _drifted_weight(w[i], scale, inverse, factor, high, low, z3)
    for n in range(groups * GROUP, out.size):
        z = normal_at(u64(start + n), k0, k1, plane, chip, event)
        out[n] = _drifted_weight(w[n], scale, inverse, factor, high, low, z)


@kernel
def symmetric_uniform(words: Any, out: Any) -> None:
    """Eq. (11): out = sqrt 12 (u - 1/2), uniform on (-sqrt 3, sqrt 3]."""
    for i in range(out.size):
        out[i] = f32(uniform(words[i]) - f32(0.5)) * f32(3.4641016)


@kernel
def laplace(words: Any, out: Any) -> None:
    """Eq. (11): out = -+ ln(u) / sqrt 2; the word's top bit is the sign, the others make u."""
    for i in range(out.size):
        magnitude = f32(minus_two_ln(uniform(u32(words[i] << u32(1)))) * f32(0.35355339))
        sign = i32(i32(words[i]) & i32(-2147483648))
        out[i] = float_of(i32(bits_of(magnitude) | sign))


@kernel
def multiply(g: Any, d: Any, sigma: Any, out: Any) -> None:
    """Eq. (9): out = max(g (1 + sigma d), 0); adding 0 because 0 (1 + sigma d) may be -0."""
    for i in range(out.size):
        out[i] = max(f32(g[i] * fma(sigma, d[i], f32(1.0))), f32(0.0)) + f32(0.0)


@kernel
def shift(g: Any, d: Any, mean: Any, sigma: Any, out: Any) -> None:
    """Eq. (10), (16): out = max(g + mean + sigma d, 0), mean and sigma in S."""
    for i in range(out.size):
        out[i] = max(f32(g[i] + fma(sigma, d[i], mean)), f32(0.0))


@kernel
def relax(g: Any, z: Any, mean: Any, spread: Any, per_siemens: Any, out: Any) -> None:
    """Eq. (16b): out = max(g + m(g) + |s(g)| z, 0); m and s are polynomials of g per_siemens, in S."""
    degree, other = mean.size - 1, spread.size - 1
    for i in range(out.size):
        r = f32(g[i] * per_siemens)
        m = mean[degree]
        for k in range(degree):
            m = fma(m, r, mean[degree - 1 - k])
        s = spread[other]
        for k in range(other):
            s = fma(s, r, spread[other - 1 - k])
        out[i] = max(f32(g[i] + fma(max(s, -s), z[i], m)), f32(0.0))


@kernel
def by_quantile(g: Any, z: Any, table: Any, low: Any, per_unit: Any, out: Any) -> None:
    """Eq. (12): out = g 2^q(z), with q piecewise cubic: `table` is (pieces, 4) flat, lowest power first."""
    last = i32(table.size // 4 - 1)
    for i in range(out.size):
        position = f32(f32(z[i] - low) * per_unit)
        piece = i32(min(max(i32(position), i32(0)), last))
        t = f32(position - f32(piece))
        k = u64(piece) * u64(4)
        q = fma(fma(fma(table[k + u64(3)], t, table[k + u64(2)]), t, table[k + u64(1)]), t, table[k])
        q = min(max(q, f32(-120.0)), f32(120.0))
        out[i] = g[i] * exp2(f32(1.0), f32(0.0), q)


@kernel
def pareto(g: Any, words: Any, least: Any, half_rate: Any, out: Any) -> None:
    """Eq. (13): out = g least u^(-1/alpha); half_rate = log2(e) / (2 alpha).

    The word 0 stands for all u below 2^-32: it gets the mean of the law there, 2^(32/alpha).
    """
    tail = exp2(half_rate, f32(0.0), f32(44.361420))  # -2 ln 2^-32
    for i in range(out.size):
        x = f32(g[i] * least) * exp2(half_rate, f32(0.0), minus_two_ln(uniform(words[i])))
        out[i] = f32(g[i] * tail) if words[i] == u32(0) else x


@kernel
def drop(g: Any, words: Any, threshold: Any, out: Any) -> None:
    """Eq. (14): out = 0 where the word lies below threshold = p 2^32, else g."""
    for i in range(out.size):
        out[i] = f32(0.0) if u64(words[i]) < u64(threshold) else g[i]


@kernel
def stick(
    g: Any, words: Any, off_below: Any, on_from: Any, g_off: Any, g_on: Any, out: Any, faults: Any
) -> None:
    """Eq. (7): stuck off (1) where word < off_below, stuck on (2) where word >= on_from, else healthy (0)."""
    for i in range(out.size):
        off = u64(words[i]) < u64(off_below)
        on = u64(words[i]) >= u64(on_from)
        out[i] = g_off if off else (g_on if on else g[i])
        faults[i] = np.uint8(1) if off else (np.uint8(2) if on else np.uint8(0))


@kernel
def program(g: Any, z: Any, coefficients: Any, per_siemens: Any, out: Any) -> None:
    """Eq. (6): out = max(g + sigma(g) z, 0); sigma(g) = sum_k coefficients[k] (g per_siemens)^k, in S."""
    degree = coefficients.size - 1
    for i in range(out.size):
        r = f32(g[i] * per_siemens)
        sigma = coefficients[degree]
        for k in range(degree):
            sigma = fma(sigma, r, coefficients[degree - 1 - k])
        out[i] = max(fma(max(sigma, f32(0.0)), z[i], g[i]), f32(0.0))
