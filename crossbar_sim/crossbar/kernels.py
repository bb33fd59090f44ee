"""Numba kernels of cells, random numbers, mappings and products. Rules, checked by review and tests:

* scalars and C-contiguous one-dimensional arrays in, results written into `out`, no allocation;
* no fastmath, no Python objects, no exceptions; equation numbers are those of docs/model.md;
* arrays of cells are flat, in the order of the stream (docs/randomness.md): bit line by bit line, so cell
  (r, c) of a matrix with `rows` rows has index c rows + r, which is the memory of torch's (out, in) weight;
* a chunk begins at cell `start`, a multiple of 256; `g` and `out` do not overlap (LLVM's overlap check would
  otherwise take the scalar loop).

Compiled code is cached by this file's time stamp alone: after editing philox.py, touch this file.
"""

import logging
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

# Scalar building blocks of the kernels: Philox-4x32-10, uniforms, normals, powers of two.
#
# Every function is float32 or uint32 arithmetic in a fixed order of IEEE operations: additions,
# multiplications, fused multiply-adds, square roots and conversions, none of which LLVM may reorder without
# `fastmath`. So a number has the same bits in every lane, chunk, thread and vector width. The
# polynomials are minimax fits (Lawson-weighted least squares at 4,000 Chebyshev nodes); the errors
# in the comments are those of the fit, `tests/crossbar/test_philox.py` holds those of the arithmetic.
#
# With the JIT off (NUMBA_DISABLE_JIT=1) the same functions run as plain Python on NumPy scalars.


u32, u64, i32, f32 = np.uint32, np.uint64, np.int32, np.float32

LANES = 64
"""Counters per group: four runs of 64 lanes, one run per output word (docs/randomness.md)."""

GROUP = 4 * LANES
"""Cells per group: 64 counters of four words."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compile with Numba: cached on disk where a cache can be written, the GIL released, no fastmath."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither the package nor the home directory is writable: compile per process
        logging.getLogger(__name__).info("no writable cache for Numba; compiling in every process")
        return numba.njit(nogil=True, error_model="numpy")(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile for use inside kernels: inlined by Numba, because LLVM does not inline it and then cannot vectorise."""
    return numba.njit(inline="always", error_model="numpy")(function)


@intrinsic
def _llvm_fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def _llvm_sqrt(typing_context: Any, x: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        function = builder.module.declare_intrinsic("llvm.sqrt", [ir.FloatType()])
        return builder.call(function, args)

    return types.float32(types.float32), generate


@intrinsic
def _llvm_bits(typing_context: Any, x: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _llvm_float(typing_context: Any, x: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


def fma(a: Any, b: Any, c: Any) -> Any:
    """a b + c in float32 with one rounding (plain Python: through float64)."""
    return f32(np.float64(a) * np.float64(b) + np.float64(c))


def sqrt(x: Any) -> Any:
    """Square root in float32; np.sqrt would add a branch that keeps LLVM from vectorising."""
    return f32(np.sqrt(f32(x)))


def bits_of(x: Any) -> Any:
    """The bit pattern of a float32, as int32."""
    return f32(x).view(np.int32)


def float_of(b: Any) -> Any:
    """The float32 with the bit pattern of an int32."""
    return i32(b).view(np.float32)


@overload(fma, inline="always")
def _fma(a, b, c):  # type: ignore[no-untyped-def]
    return lambda a, b, c: _llvm_fma(f32(a), f32(b), f32(c))  # type: ignore[call-arg]


@overload(sqrt, inline="always")
def _sqrt(x):  # type: ignore[no-untyped-def]
    return lambda x: _llvm_sqrt(f32(x))  # type: ignore[call-arg]


@overload(bits_of, inline="always")
def _bits_of(x):  # type: ignore[no-untyped-def]
    return lambda x: _llvm_bits(f32(x))  # type: ignore[call-arg]


@overload(float_of, inline="always")
def _float_of(b):  # type: ignore[no-untyped-def]
    return lambda b: _llvm_float(i32(b))  # type: ignore[call-arg]


@inlined
def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Four random 32-bit words of counter (c0, c1, c2, c3) under key (k0, k1), all six as uint64.

    Ten rounds of Philox-4x32 (Salmon et al., SC 2011, section 3.3 and table 2).
    The state is kept in 64-bit lanes with whatever lies above bit 31 left there: a 32 x 32 -> 64 bit vector
    multiply reads the low halves only, so nothing has to be packed between rounds (twice as fast).
    """
    low = u64(0xFFFFFFFF)
    for _ in range(10):
        p0 = u64(0xD2511F53) * (c0 & low)
        p1 = u64(0xCD9E8D57) * (c2 & low)
        c0 = (p1 >> u64(32)) ^ c1 ^ k0
        c2 = (p0 >> u64(32)) ^ c3 ^ k1
        c1 = p1
        c3 = p0
        k0 = k0 + u64(0x9E3779B9)
        k1 = k1 + u64(0xBB67AE85)
    return u32(c0 & low), u32(c1 & low), u32(c2 & low), u32(c3 & low)


@inlined
def uniform(a: Any) -> Any:
    """A word as a float32 in (0, 1]: 2^-32 (a + 1/2), rounded twice."""
    return fma(f32(a), f32(2.0**-32), f32(2.0**-33))


@inlined
def minus_two_ln(u: Any) -> Any:
    """-2 ln(u) of a positive normal float32 (fit: 6e-9 relative)."""
    b = bits_of(u)
    e = i32(i32(b - i32(0x3F3504F3)) >> i32(23))  # mantissa in [sqrt(1/2), sqrt(2))
    x = f32(float_of(i32(b - i32(e << i32(23)))) - f32(1.0))
    p = fma(f32(0.15268986), x, f32(-0.2552315))
    p = fma(p, x, f32(0.26320366))
    p = fma(p, x, f32(-0.28403518))
    p = fma(p, x, f32(0.33246714))
    p = fma(p, x, f32(-0.40002454))
    p = fma(p, x, f32(0.5000164))
    p = fma(p, x, f32(-0.6666666))
    p = fma(p, x, f32(1.0))
    p = fma(f32(p * x), x, f32(f32(-2.0) * x))
    return fma(f32(e), f32(-1.3862944), p)


@inlined
def sin_pi(t: Any) -> Any:
    """sin(pi t) for |t| <= 1/2 (fit: 5e-9 relative)."""
    s = f32(t * t)
    p = fma(f32(0.07756039), s, f32(-0.5982421))
    p = fma(p, s, f32(2.5500698))
    p = fma(p, s, f32(-5.16771))
    p = fma(p, s, f32(3.1415927))
    return f32(p * t)


@inlined
def exp2(high: Any, low: Any, z: Any) -> Any:
    """2^((high + low) z) for exponents within +-120 (fit: 2e-9 relative).

    The rate comes as a sum so that a large exponent costs no accuracy: high z is not rounded before its
    integer part is taken away. Adding 1.5 x 2^23 rounds to the nearest integer and leaves it in the low
    bits, from where the shift moves it into the exponent.
    """
    t = fma(high, z, f32(12582912.0))
    r = fma(low, z, fma(high, z, f32(f32(12582912.0) - t)))
    p = fma(f32(0.00015353362), r, f32(0.0013398875))
    p = fma(p, r, f32(0.009618437))
    p = fma(p, r, f32(0.055503324))
    p = fma(p, r, f32(0.24022648))
    p = fma(p, r, f32(0.6931472))
    p = fma(p, r, f32(1.0))
    return float_of(i32(bits_of(p) + i32(bits_of(t) << i32(23))))


@inlined
def normals(a: Any, b: Any) -> Any:
    """Two words as two independent standard normals (Box and Muller 1958); |z| <= 6.77.

    The angle is pi t plus half a turn if the top bit of b is set; the other 31 bits are t in [-1/2, 1/2).
    The half turn is the sign of the radius.
    """
    radius = sqrt(minus_two_ln(uniform(a)))
    r = float_of(i32(bits_of(radius) | i32(i32(b) & i32(-2147483648))))
    t = f32(f32(i32(u32(b << u32(1)))) * f32(2.0**-32))
    return f32(r * sin_pi(f32(f32(0.5) - f32(abs(t))))), f32(r * sin_pi(t))


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
    """Program, drift and read weights with g_min = 0 in one pass: the pair's other cell conducts nothing.

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
def lognormal_chips(
    w: Any, out: Any, scale: Any, inverse: Any, factor: Any, high: Any, low: Any, k0: Any, k1: Any, chips: Any
) -> None:
    """Run `lognormal_weights` for each chip in turn; `out` is (chips, weights), flat."""
    n = w.size
    for i in range(chips.size):
        mine = out[i * n : (i + 1) * n]
        lognormal_weights(w, mine, scale, inverse, factor, high, low, 0, k0, k1, 0, chips[i], 0)


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


# Kernels of mappings: weights to planes and back; and the tiled analog product.
#
# `scale` has one entry for the whole matrix or one for each column.


@inlined
def _cell_target(a: Any, base: Any, low: Any, high: Any) -> Any:
    """base + a limited to the window [low, high]."""
    return min(max(f32(base + a), low), high)


@kernel
def to_cells(
    w: Any, scale: Any, rows: Any, start: Any, sign: Any, base: Any, low: Any, high: Any, out: Any
) -> None:
    """Eq. (2), (3), and (4) without levels: out = base + sign s w inside [low, high]."""
    if scale.size == 1:
        s = f32(sign * scale[0])
        for i in range(out.size):
            out[i] = _cell_target(f32(w[i] * s), base, low, high)
        return
    i = 0
    while i < out.size:
        column = (start + i) // rows
        end = min(out.size, (column + 1) * rows - start)
        s = f32(sign * scale[column])
        for k in range(i, end):
            out[k] = _cell_target(f32(w[k] * s), base, low, high)
        i = end


_UP = 1.0 + 2.0**-23 + 2.0**-40
"""A scale is rounded towards zero to single precision: the exact one is at most this many times as large."""


@inlined
def _level(w: Any, steps: Any, base: Any, top: Any) -> Any:
    """Eq. (4): floor(x + 1/2) in 0 .. top, with x = base + w steps in units of a level.

    x is the largest number that the rounded scale may stand for, so that what lies half-way between two levels goes
    up whatever the window is: in single precision the window would decide.
    """
    x = np.float64(w) * steps
    x = base + max(x, x * _UP)
    return f32(min(max(np.floor(x + 0.5), 0.0), top))


@kernel
def to_levels(
    w: Any, scale: Any, rows: Any, start: Any, per_step: Any, base: Any, top: Any, out: Any
) -> None:
    """Eq. (2) to (4) in levels: out = the level of each weight, integers in 0 .. top.

    `per_step` is the sign of the plane over the step, 1/S, `base` the level of weight 0; both in double precision.
    """
    if scale.size == 1:
        steps = np.float64(scale[0]) * per_step
        for i in range(out.size):
            out[i] = _level(w[i], steps, base, top)
        return
    i = 0
    while i < out.size:
        column = (start + i) // rows
        end = min(out.size, (column + 1) * rows - start)
        steps = np.float64(scale[column]) * per_step
        for k in range(i, end):
            out[k] = _level(w[k], steps, base, top)
        i = end


@kernel
def at_levels(step: Any, low: Any, high: Any, out: Any) -> None:
    """Eq. (4): levels to conductances, in place.

    The minimum keeps the highest level from passing `high` by a rounding.
    """
    for i in range(out.size):
        out[i] = min(fma(out[i], step, low), high)


@inlined
def _near(g: Any, low: Any, unit: Any) -> Any:
    """The level of g above `low` in steps of `unit`, to single precision; -1 if g is between levels."""
    g = np.float64(g)
    level = np.floor((g - low) / unit + 0.5)
    return level if abs(g - (low + level * unit)) <= 2.0**-22 * g else -1.0


@kernel
def in_levels(g: Any, low: Any, unit: Any, out: Any) -> None:
    """out = g / unit; exactly level + low / unit where g is on a level."""
    per, offset = f32(unit), low / unit
    for i in range(out.size):
        level = _near(g[i], low, unit)
        out[i] = f32(level + offset) if level >= 0.0 else f32(g[i] / per)


@kernel
def level_differences(plus: Any, minus: Any, low: Any, unit: Any, out: Any) -> None:
    """out = (plus - minus) / unit; exactly an integer where both are on a level."""
    per = f32(unit)
    for i in range(out.size):
        a, b = _near(plus[i], low, unit), _near(minus[i], low, unit)
        there = a >= 0.0 and b >= 0.0
        out[i] = f32(a - b) if there else f32(f32(plus[i] / per) - f32(minus[i] / per))


@kernel
def add_difference(plus: Any, minus: Any, fresh: Any, out: Any) -> None:
    """Eq. (5): out = plus - minus if `fresh`, else out + (plus - minus)."""
    if fresh:
        for i in range(out.size):
            out[i] = f32(plus[i] - minus[i])
    else:
        for i in range(out.size):
            out[i] = f32(out[i] + f32(plus[i] - minus[i]))


@kernel
def add_against_reference(g: Any, reference: Any, start: Any, fresh: Any, out: Any) -> None:
    """Eq. (5): the same against the reference column: reference[r] belongs to every cell of row r."""
    rows = reference.size
    i = 0
    while i < out.size:
        column = (start + i) // rows
        first = start + i - column * rows
        end = min(out.size, (column + 1) * rows - start)
        for k in range(i, end):
            d = f32(g[k] - reference[first + k - i])
            out[k] = d if fresh else f32(out[k] + d)
        i = end


@kernel
def add_slice(difference: Any, weight: Any, fresh: Any, out: Any) -> None:
    """Eq. (29): out = weight difference if `fresh`, else out + weight difference: shift and add."""
    if fresh:
        for i in range(out.size):
            out[i] = f32(weight * difference[i])
    else:
        for i in range(out.size):
            out[i] = f32(out[i] + f32(weight * difference[i]))


@kernel
def unscale(out: Any, inverse: Any, rows: Any, start: Any) -> None:
    """Eq. (5): out = out inverse, S back to weights, one inverse per matrix or per column.

    Adding 0 makes an underflow of either sign the same +0.
    """
    if inverse.size == 1:
        for i in range(out.size):
            out[i] = f32(out[i] * inverse[0]) + f32(0.0)
        return
    i = 0
    while i < out.size:
        column = (start + i) // rows
        end = min(out.size, (column + 1) * rows - start)
        for k in range(i, end):
            out[k] = f32(out[k] * inverse[column]) + f32(0.0)
        i = end


@kernel
def tiled_currents(v: Any, g: Any, tile_rows: Any, scratch: Any, out: Any) -> None:
    """Eq. (17): out[b, c] = sum over tiles of sum over the tile's rows of v[b, r] g[r, c], in A.

    v is (batch, rows) in V, g (rows, cols) in S, out (batch, cols) in A, scratch (cols,). The bit lines of a
    tile sum its own rows; the sum over tiles is the digital one.
    """
    batch, rows = v.shape
    cols = g.shape[1]
    for b in range(batch):
        for c in range(cols):
            out[b, c] = f32(0.0)
        for first in range(0, rows, tile_rows):
            for c in range(cols):
                scratch[c] = f32(0.0)
            for r in range(first, min(rows, first + tile_rows)):
                voltage = v[b, r]
                for c in range(cols):
                    scratch[c] = fma(voltage, g[r, c], scratch[c])
            for c in range(cols):
                out[b, c] = f32(out[b, c] + scratch[c])
